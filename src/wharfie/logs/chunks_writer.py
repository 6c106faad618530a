# SPDX-License-Identifier: Apache-2.0
"""Appending to a `wharfie` log (format: `chunks_file`)."""

from __future__ import annotations

import contextlib
import os
import time

from wharfie.logs.chunks import ChunkCopier
from wharfie.logs.chunks_file import (
    BLOCK_BYTES,
    BLOCK_NS,
    FRAME,
    HEADER,
    MAGIC,
    RAW,
    RECORD,
    VERSION,
    Segment,
    segment_numbers,
    segment_path,
)  # fmt: skip
from wharfie.logs.fileio import O_CLOEXEC, writev

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.logs import Copier, Request

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_APPEND | O_CLOEXEC


class ChunkWriter:
    def __init__(self, directory: str, *, terminal: bool, max_size_bytes: int = 0, max_files: int = 1) -> None:
        self._directory, self._raw = directory, terminal
        self._max_size, self._max_files = max_size_bytes, max(max_files, 1)
        self.lost_bytes = 0
        self._data_fd = self._index_fd = -1
        os.makedirs(directory, mode=0o700, exist_ok=True)
        numbers = segment_numbers(directory)
        self._number = numbers[-1] if numbers else 0
        if not numbers or not self._reopen():
            self._start_segment(self._number + 1)

    def _reopen(self) -> bool:
        """Take up the last segment, cut to what is whole; False where it is of the other kind."""
        segment = Segment(self._directory, self._number)
        try:
            if segment.raw != self._raw:
                return False
            records, end = len(segment.offsets), segment.end
            if segment.created_ns == 0:
                return False
        except BaseException:
            segment.close()
            raise
        segment.close()
        self._open_files()
        os.ftruncate(self._index_fd, HEADER.size + records * RECORD.size)
        os.ftruncate(self._data_fd, end)
        self._size, self._indexed_at, self._indexed_ns = end, end, 0
        return True

    def _open_files(self) -> None:
        self._data_fd = os.open(segment_path(self._directory, self._number, "log"), _WRITE, 0o600)
        self._index_fd = os.open(segment_path(self._directory, self._number, "idx"), _WRITE, 0o600)

    def _start_segment(self, number: int) -> None:
        for fd in (self._data_fd, self._index_fd):
            if fd >= 0:
                os.close(fd)
        self._number = number
        self._open_files()
        os.write(self._index_fd, HEADER.pack(MAGIC, VERSION, RAW if self._raw else 0, time.time_ns()))
        self._size = self._indexed_at = self._indexed_ns = 0
        for old in segment_numbers(self._directory):
            if old <= number - self._max_files:
                for suffix in ("idx", "log"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(segment_path(self._directory, old, suffix))

    def write(self, stream: int, data: bytes | memoryview) -> None:
        now = time.time_ns()
        try:
            size = len(data) if self._raw else FRAME.size + len(data)
            if self._max_size and self._size and self._size + size > self._max_size:
                self._start_segment(self._number + 1)
            self._put([data] if self._raw else [FRAME.pack(stream, len(data)), data], size)
        except OSError:  # disk full or worse: the container goes on, the loss is counted and shown by the shim
            self.lost_bytes += len(data)
            return
        if now - self._indexed_ns >= BLOCK_NS or self._size - self._indexed_at >= BLOCK_BYTES:
            try:
                os.write(self._index_fd, RECORD.pack(self._size - size, now))
            except OSError:
                return  # the time of this block is lost, its bytes are not
            self._indexed_at, self._indexed_ns = self._size, now

    def _put(self, parts: list[bytes | memoryview], size: int) -> None:
        try:
            written = writev(self._data_fd, parts)
            rest = b"".join(parts)[written:] if written < size else b""
            while rest:
                rest = rest[os.write(self._data_fd, rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._data_fd, self._size)
            raise
        self._size += size

    @property
    def position(self) -> tuple[int, int]:
        """(segment, offset) of the end."""
        return self._number, self._size

    def copier(self, request: Request, *, live: bool = False) -> Copier | None:
        return ChunkCopier(self._directory, request, start=self.position if live else None, follow=self)

    def close(self) -> None:
        os.close(self._data_fd)
        os.close(self._index_fd)
        self._data_fd = self._index_fd = -1
