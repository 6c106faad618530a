# SPDX-License-Identifier: Apache-2.0
"""Make this host one that every peer accepts."""

from __future__ import annotations

import subprocess
from pathlib import Path


def settle_cgroups() -> None:
    """crun refuses a hybrid machine whose cgroup2 has controllers: take the last one (hugetlb) to a v1 hierarchy."""
    unified, v1 = Path("/sys/fs/cgroup/unified/cgroup.controllers"), Path("/sys/fs/cgroup/hugetlb")
    if unified.exists() and unified.read_text().split() == ["hugetlb"] and not v1.exists():
        v1.mkdir()
        subprocess.run(["mount", "-t", "cgroup", "-o", "hugetlb", "hugetlb", str(v1)], check=True)
