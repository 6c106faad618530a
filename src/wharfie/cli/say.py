# SPDX-License-Identifier: Apache-2.0
"""Words to people. stdout is data, stderr is talk."""

from __future__ import annotations

import sys


def out(text: str = "") -> None:
    sys.stdout.write(text + "\n")


def err(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def warn(text: str) -> None:
    err(f"WARNING: {text}")
