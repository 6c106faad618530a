# SPDX-License-Identifier: Apache-2.0
"""A host without cgroups: containers run, limits are an error."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie.errdefs import FailedPrecondition
from wharfie.runtime import Stats
from wharfie.spec.runtime import Resources


class NoCgroups:
    takes_itself = True

    def __init__(self, path: str) -> None:
        self.path = path

    def create(self) -> None:
        return

    def add(self, pid: int) -> None:
        return

    def birth_fd(self) -> int | None:
        return None

    def apply(self, resources: Resources) -> list[str]:
        limited = resources.memory or resources.cpu or resources.pids or resources.unified or resources.block_io
        if limited:
            raise FailedPrecondition("set limits: no cgroup file system is mounted on this host")
        return ["no cgroup file system is mounted: devices are not restricted"]

    def views(self) -> list[tuple[str, str]]:
        return []

    def _refuse(self) -> None:
        raise FailedPrecondition("use cgroup: no cgroup file system is mounted on this host")

    def freeze(self) -> None:
        self._refuse()

    def thaw(self) -> None:
        self._refuse()

    def frozen(self) -> bool:
        return False

    def kill(self, signal: int) -> None:
        self._refuse()

    def pids(self) -> list[int]:
        return []

    def stats(self) -> Stats:
        return Stats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

    def oom_fd(self) -> int | None:
        return None

    def exists(self) -> bool:
        return False

    def delete(self) -> None:
        return
