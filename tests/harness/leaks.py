# SPDX-License-Identifier: Apache-2.0
"""What a machine holds of one engine: mounts, cgroups, processes, network namespaces. Empty after every test."""

from __future__ import annotations

import os
import time
from pathlib import Path


def mounts_below(*prefixes: str) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found = [line.split()[4] for line in lines]
    return [m for m in found if any(m == p or m.startswith(p + "/") for p in prefixes)]


def cgroups_named(parent: str) -> list[str]:
    """Directories below a cgroup parent (`/name`), in every hierarchy, the parent itself left out."""
    found = []
    base = Path("/sys/fs/cgroup")
    for hierarchy in [base, *(p for p in base.iterdir() if p.is_dir())]:
        top = hierarchy / parent.strip("/")
        if top.is_dir():
            found += [str(d) for d, _, _ in os.walk(top) if d != str(top)]
    return found


def processes_with(*needles: str) -> list[tuple[int, str]]:
    """Processes whose command line or cgroup names one of `needles`, this one left out."""
    found = []
    for pid in (int(p) for p in os.listdir("/proc") if p.isdigit()):
        if pid == os.getpid():
            continue
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            groups = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            continue
        if any(n in command or n in groups for n in needles):
            found.append((pid, command[:200]))
    return found


def held_namespaces(kind: str = "net") -> set[str]:
    """Namespaces of a kind that any process is in."""
    found = set()
    for pid in (p for p in os.listdir("/proc") if p.isdigit()):
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
        except OSError:
            continue
    return found


def wait_until_gone(look: object, timeout_s: float = 5.0) -> list[object]:
    """Call `look` until it finds nothing; returns what is still there at the end."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = list(look())  # type: ignore[operator]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)
