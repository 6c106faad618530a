# SPDX-License-Identifier: Apache-2.0
"""One switch of the kernel's cgroups that a container engine wants: cheap moves of processes.

Moving a process into a cgroup (v1 knows no other way to start one there) waits for an RCU grace period: 5–18 ms here
after a pause, 0.3 ms with `favordynmods` (Linux 6.0, cgroup-v2.rst: "reduce the latencies of dynamic cgroup
modifications … at the cost of making … forks and exits more expensive"). It is a setting of the whole host, so it is
for the daemon to make and to log, not for a runtime on its way.
"""

from __future__ import annotations

import os

from wharfie.linux import mountapi as k

_FLAGS = ("nsdelegate", "memory_localevents", "memory_recursiveprot", "memory_hugetlb_accounting", "pids_localevents")


def moves_are_favored(table: str = "/proc/self/mountinfo") -> bool | None:
    """Whether cgroup2 is mounted with favordynmods; None where it isn't mounted at all."""
    options = _options(table)
    return None if options is None else "favordynmods" in options


def _options(table: str) -> list[str] | None:
    with open(table, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fs_type, _, options = line.partition(" - ")[2].rstrip("\n").split(" ", 2)
            if fs_type == "cgroup2":
                return options.split(",")
    return None


def favor_moves(table: str = "/proc/self/mountinfo") -> bool:
    """Turn favordynmods on, other options kept. False where this kernel doesn't know it. Needs root. Idempotent.

    Options of cgroup2 belong to its one superblock: making another mount of it sets them, attached or not.
    """
    old = _options(table) or []
    if "favordynmods" in old:
        return True
    fs = k.fsopen("cgroup2")
    try:
        try:
            for flag in (*(f for f in _FLAGS if f in old), "favordynmods"):
                k.fsconfig_flag(fs, flag)
        except OSError:
            return False
        k.fsconfig_create(fs, "cgroup2")
    finally:
        os.close(fs)
    return True
