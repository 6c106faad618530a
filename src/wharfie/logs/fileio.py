# SPDX-License-Identifier: Apache-2.0
"""The calls that log files need, where a system lacks them made of lesser ones (one process, one thread a file)."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

if sys.platform != "win32":
    O_CLOEXEC = os.O_CLOEXEC
    pread, writev, sendfile = os.pread, os.writev, os.sendfile
else:
    O_CLOEXEC = os.O_NOINHERIT | os.O_BINARY

    def pread(fd: int, size: int, offset: int, /) -> bytes:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)

    def writev(fd: int, parts: Sequence[bytes | memoryview], /) -> int:
        return os.write(fd, b"".join(parts))

    def sendfile(out_fd: int, in_fd: int, offset: int, count: int) -> int:
        return os.write(out_fd, pread(in_fd, min(count, 1 << 20), offset))
