# SPDX-License-Identifier: Apache-2.0
"""Leaving the daemon's cgroup, once, in the zygote: every fork then starts outside, at no cost of its own.

Moving a process costs milliseconds in the kernel (a machine-wide lock), so shims share one cgroup instead of having
one each; containers have their own anyway.
"""

from __future__ import annotations

import os
import sys

from wharfie import log

if sys.platform == "win32":
    raise ImportError("the zygote is a Linux process")


def enter_cgroup(path: str) -> None:
    """Move this process to cgroup `path` ("/name") of each hierarchy; "" stays. What can't be is said on stderr."""
    if not path:
        return
    for base in _hierarchies():
        directory = base + path
        try:
            os.makedirs(directory, mode=0o755, exist_ok=True)
            if base.endswith("/cpuset"):
                _inherit_cpuset(base, directory)
            with open(f"{directory}/cgroup.procs", "w") as f:
                f.write("0")
        except OSError as e:
            log.line("warning", f"enter cgroup: {e}", entry="zygote", path=directory)


def leave_cgroup(path: str) -> None:
    """Move back to the top and remove cgroup `path` from each hierarchy, unless shims are still in it."""
    if not path:
        return
    for base in _hierarchies():
        try:
            with open(f"{base}/cgroup.procs", "w") as f:
                f.write("0")
            os.rmdir(base + path)
        except OSError:
            continue  # others are in it: the last zygote to end removes it


def _inherit_cpuset(base: str, directory: str) -> None:
    """Cgroup v1: an empty cpuset takes no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        with open(f"{directory}/{name}") as f:
            if f.read().strip():
                continue
        with open(f"{base}/{name}") as source, open(f"{directory}/{name}", "w") as f:
            f.write(source.read())


def _hierarchies() -> list[str]:
    with open("/proc/self/mountinfo") as f:
        lines = [line.split() for line in f]
    found: dict[str, str] = {}
    for fields in lines:
        kind = fields[fields.index("-") + 1]
        if kind in ("cgroup", "cgroup2"):
            found.setdefault(fields[2], fields[4])
    return list(found.values())
