# SPDX-License-Identifier: Apache-2.0
"""Advisory locks on files, held by a descriptor and gone with it."""

from __future__ import annotations

import os
import sys
from types import TracebackType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class FileLock:
    """`with FileLock(path): …` — exclusive, or shared. The file stays; only the lock on it counts.

    `blocking=False` raises BlockingIOError where somebody else holds it.
    """

    __slots__ = ("_blocking", "_fd", "_path", "_shared")

    def __init__(self, path: str, *, shared: bool = False, blocking: bool = True) -> None:
        self._path, self._shared, self._blocking = path, shared, blocking
        self._fd = -1

    def acquire(self) -> None:
        if sys.platform == "win32":
            raise NotImplementedError("file locks: not on Windows yet")
        import fcntl

        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            how = fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX
            fcntl.flock(fd, how if self._blocking else how | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.release()
