# SPDX-License-Identifier: Apache-2.0
"""Cgroups: one table of managers for v1 (and hybrid), v2, and hosts that have none.

A manager owns one cgroup path: `create`, `add` processes, `apply` resources, then freeze, kill, stats, `delete`. Values
come as OCI `Resources`; `settings` turns them into files, `properties` into what systemd calls them. The host's layout is read from the mount table.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

from typing import Protocol

from wharfie.runtime import Stats
from wharfie.runtime.linux.cgroups.host import Host, read_host
from wharfie.spec.runtime import Resources
from wharfie.spec.scope import is_scope


class Manager(Protocol):
    path: str
    takes_itself: bool
    """Whether a process may move itself by `add(0)`: it then spends the grace period beside its runtime."""

    def create(self) -> None:
        """Make the directories; systemd's scope comes with the first `add` instead. Raises OSError, AlreadyExists."""

    def add(self, pid: int) -> None:
        """Move a process in. On v1 the first move after a pause costs an RCU grace period (some 15 ms)."""

    def birth_fd(self) -> int | None:
        """Directory descriptor to be born into (CLONE_INTO_CGROUP), where that is enough and `add` needs no call."""

    def apply(self, resources: Resources) -> list[str]:
        """Set limits. Returns warnings: what this kernel has no file for. Raises OSError, InvalidArgument."""

    def views(self) -> list[tuple[str, str]]:
        """(name, directory) of each hierarchy for the container's cgroup mount; name "" alone for v2."""

    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def frozen(self) -> bool: ...
    def kill(self, signal: int) -> None: ...
    def pids(self) -> list[int]: ...
    def stats(self) -> Stats: ...
    def oom_fd(self) -> int | None: ...
    def exists(self) -> bool: ...
    def delete(self) -> None:
        """Kill what is left in it and remove it. Idempotent."""


def open_manager(path: str, host: Host | None = None, resources: Resources | None = None) -> Manager:
    """The manager for a cgroup path: absolute below the hierarchies' roots, or `slice:prefix:name` for systemd's.

    `resources` are those that the first `apply` will bring, for managers that can use them at once.
    """
    host = host or read_host()
    if is_scope(path):
        from wharfie.runtime.linux.cgroups.systemd import open_systemd

        return open_systemd(path, host, resources)
    if host.unified and not host.v1:
        from wharfie.runtime.linux.cgroups.v2 import V2

        return V2(path, host.unified)
    if host.v1:
        from wharfie.runtime.linux.cgroups.v1 import V1

        return V1(path, host.v1, host.unified)
    from wharfie.runtime.linux.cgroups.none import NoCgroups

    return NoCgroups(path)


__all__ = ["Host", "Manager", "open_manager", "read_host"]
