# SPDX-License-Identifier: Apache-2.0
"""Which names `--runtime` takes: ours, the configured ones, and programs of this host that need no configuration."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from wharfie.tasks import OWN_RUNTIME

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROGRAMS = ("runc", "crun", "youki", "runsc")
_SHIM_PREFIX = "containerd-shim-"


def available(configured: Mapping[str, str]) -> dict[str, str]:
    """Name -> what runs it: ours, a path of an OCI runtime, or a containerd runtime name (io.containerd.runc.v2).

    The configuration wins over what is found on PATH. Looked up once, at the daemon's start.
    """
    found = {OWN_RUNTIME: OWN_RUNTIME}
    for program in _PROGRAMS:
        if path := shutil.which(program):
            found[program] = path
    for directory in os.get_exec_path():
        try:
            programs = os.listdir(directory)
        except OSError:
            continue
        for name in programs:
            if name.startswith(f"{_SHIM_PREFIX}runc-v"):
                runtime = f"io.containerd.runc.{name.rpartition('-')[2]}"
                found[runtime] = runtime
    return {**found, **configured}
