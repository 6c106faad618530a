# SPDX-License-Identifier: Apache-2.0
"""How a host's cgroup hierarchies are mounted."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import os
from typing import NamedTuple


class Hierarchy(NamedTuple):
    """A v1 hierarchy. `controllers` is empty for a named one; `name` is its directory's name (cpu,cpuacct; systemd)."""

    name: str
    mount_point: str
    controllers: tuple[str, ...]


class Host(NamedTuple):
    """`unified`: where cgroup2 is mounted, or "". Both `v1` and `unified` set: hybrid."""

    v1: tuple[Hierarchy, ...]
    unified: str


_FLAGS = {"rw", "ro", "noprefix", "clone_children", "xattr", "cpuset_v2_mode", "favordynmods", "release_agent"}


def read_host(table: str = "/proc/self/mountinfo") -> Host:
    """Read the mount table. A hierarchy mounted more than once counts once."""
    v1: dict[tuple[str, ...], Hierarchy] = {}
    unified = ""
    with open(table, "rb", buffering=0) as f:
        lines = os.fsdecode(f.readall()).split("\n")
    for line in lines:
        if " - cgroup" not in line:
            continue
        left, _, right = line.partition(" - ")
        fs_type, _, options = right.split(" ", 2)
        point = left.split(" ", 5)[4]
        if fs_type == "cgroup2":
            unified = unified or point
            continue
        words = [w for w in options.split(",") if w.partition("=")[0] not in _FLAGS]
        named = next((w[5:] for w in words if w.startswith("name=")), "")
        controllers = tuple(w for w in words if not w.startswith("name=") and w != "none")
        name = point.rsplit("/", 1)[1] if controllers else named
        v1.setdefault(controllers or (f"name={named}",), Hierarchy(name, point, controllers))
    return Host(tuple(v1.values()), unified)
