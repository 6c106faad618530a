# SPDX-License-Identifier: Apache-2.0
"""What this host can do, as far as specs depend on it."""

from __future__ import annotations

from typing import NamedTuple


class HostFacts(NamedTuple):
    """`capabilities`: CAP_ names of our bounding set. `cgroup_version` 1 also for hybrid hosts.

    `userns`: "" where containers can have a user namespace over idmapped layers, else why not (one phrase).
    `controllers`: memory cpu cpuset pids blkio/io hugetlb devices freezer rdma. `architecture` as in image configs.
    `lsm`: names of active security modules (apparmor, selinux …).
    """

    architecture: str = "amd64"
    capabilities: frozenset[str] = frozenset()
    cgroup_version: int = 2
    controllers: frozenset[str] = frozenset()
    swap_limit: bool = True
    userns: str = ""
    seccomp: bool = True
    lsm: frozenset[str] = frozenset()
    cpus: int = 1
    memory_bytes: int = 0
    runtimes: frozenset[str] = frozenset()
    """Names and paths that --runtime may take."""
