# SPDX-License-Identifier: Apache-2.0
"""The multiplexed stream of containers without a terminal: frames of (stream, 3 zero bytes, big-endian length, data).

Meant for hundreds of megabytes: a frame that is larger than a read is passed on piece by piece, and neighbours of one
stream go out by one writev.

Spec: Engine API, ContainerAttach, "Stream format".
"""

from __future__ import annotations

import os
import sys
from _struct import Struct  # the C half of `struct`

from wharfie.errdefs import DataLoss, WharfieError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

STDIN, STDOUT, STDERR, SYSTEM_ERROR = 0, 1, 2, 3
HEADER = Struct(">BxxxI")
_IOV_MAX = 1024 if not hasattr(os, "sysconf") else max(16, os.sysconf("SC_IOV_MAX"))


class Splitter:
    """Feed it bytes as they come; it writes to the two descriptors. Not-blocking descriptors are waited for.

    Raises: DataLoss (not a frame), WharfieError (the engine reports an error in the stream), OSError of the write.
    """

    __slots__ = ("_left", "_outs", "_rest", "_stream")

    def __init__(self, stdout: int | None, stderr: int | None) -> None:
        self._outs = (stdout, stdout, stderr, None)
        self._rest = b""
        self._left = 0
        self._stream = STDOUT

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        view = memoryview(data)
        size = len(view)
        pos = 0
        stream = self._stream
        ready: list[memoryview] = []
        if left := self._left:
            pos = min(left, size)
            ready.append(view[:pos])
            self._left = left - pos
        unpack = HEADER.unpack_from
        while size - pos >= 8:
            kind, length = unpack(view, pos)
            pos += 8
            if kind != stream:
                self._write(stream, ready)
                stream = self._stream = kind
                if kind > SYSTEM_ERROR:
                    raise DataLoss(
                        f"read the container's output: byte {kind} begins no frame", hint="was it made with -t?"
                    )
            end = pos + length
            if end > size:
                if kind == SYSTEM_ERROR:
                    self._rest = bytes(view[pos - 8 :])
                    return
                ready.append(view[pos:])
                self._left = end - size
                pos = size
                break
            if kind == SYSTEM_ERROR:
                raise WharfieError(f"error in the stream: {str(view[pos:end], 'utf-8', 'replace')}")
            ready.append(view[pos:end])
            pos = end
        self._write(stream, ready)
        if pos < size:
            self._rest = bytes(view[pos:])

    def _write(self, stream: int, ready: list[memoryview]) -> None:
        fd = self._outs[stream] if stream < 4 else None
        if fd is not None and ready:
            write_all(fd, ready)
        ready.clear()

    def close(self) -> None:
        """Call at the end of the stream. Raises: DataLoss when it ended inside a frame."""
        if self._left or self._rest:
            raise DataLoss("read the container's output: the stream ends inside a frame")


def write_all(fd: int, parts: list[memoryview]) -> None:
    if len(parts) == 1 or sys.platform == "win32":
        for view in parts:
            while view:
                view = view[_waiting(fd, lambda v=view: os.write(fd, v)) :]  # type: ignore[misc]
        return
    start = 0
    while start < len(parts):
        batch = parts[start : start + _IOV_MAX]
        start += len(batch)
        left = sum(map(len, batch))
        while True:
            written = _waiting(fd, lambda b=batch: os.writev(fd, b))  # type: ignore[misc,unused-ignore]
            left -= written
            if not left:
                break
            while written >= len(batch[0]):
                written -= len(batch.pop(0))
            batch[0] = batch[0][written:]


def _waiting(fd: int, write: Callable[[], int]) -> int:
    """Our stdout may be non-blocking, when it shares its description with a program that made it so."""
    while True:
        try:
            return write()
        except BlockingIOError:
            import select

            select.select([], [fd], [])
