# SPDX-License-Identifier: Apache-2.0
"""Streams of unknown compression, as users give them to `load` and `import`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from wharfie.archive.compression import OUTPUT_BYTES, RATIO_GRACE_BYTES, detect, inflate
from wharfie.errdefs import DataLoss, ResourceExhausted

_CHUNK = 256 << 10
_MAX_RATIO = 1000


class ReadInto(Protocol):
    def read(self, n: int = -1, /) -> bytes: ...


class Peekable:
    """A stream whose first bytes can be looked at before they are read."""

    def __init__(self, stream: ReadInto) -> None:
        self._stream = stream
        self._head = b""

    def peek(self, n: int) -> bytes:
        while len(self._head) < n:
            more = self._stream.read(n - len(self._head))
            if not more:
                break
            self._head += more
        return self._head

    def read(self, n: int = -1, /) -> bytes:
        if not self._head:
            return self._stream.read(n)
        head, self._head = (self._head, b"") if n < 0 else (self._head[:n], self._head[n:])
        return head + self._stream.read(n) if n < 0 else head


def inflate_any(stream: Peekable) -> Iterator[bytes]:
    """Plain bytes of a stream that may be plain or compressed by gzip, zstd, bzip2 or xz."""
    head = stream.peek(6)
    kind = detect(head)
    if kind is not None:
        return inflate(stream, kind)
    if head.startswith(b"BZh"):
        import bz2

        return _decompress(stream, bz2.BZ2Decompressor, (OSError,), "bzip2")
    if head.startswith(b"\xfd7zXZ\0"):
        import lzma

        return _decompress(stream, lambda: lzma.LZMADecompressor(memlimit=256 << 20), (lzma.LZMAError, EOFError), "xz")
    return inflate(stream, "none")


def _decompress(
    stream: Peekable, make: Callable[[], Any], errors: tuple[type[Exception], ...], kind: str
) -> Iterator[bytes]:
    decoder = make()
    data = stream.read(_CHUNK)
    taken, given = len(data), 0
    while data or not decoder.eof:
        try:
            out = decoder.decompress(data, OUTPUT_BYTES)
        except errors as e:
            raise DataLoss(f"inflate {kind}: {e}") from e
        given += len(out)
        if given > RATIO_GRACE_BYTES and given > taken * _MAX_RATIO:
            raise ResourceExhausted(f"inflate {kind}: {given} bytes out of {taken}: more than {_MAX_RATIO} to 1")
        if out:
            yield out
        data = b""
        if decoder.eof:
            data = decoder.unused_data
            if not data:
                data = stream.read(_CHUNK)
                taken += len(data)
            if not data:
                return
            decoder = make()
        elif decoder.needs_input:
            data = stream.read(_CHUNK)
            taken += len(data)
            if not data:
                raise DataLoss(f"inflate {kind}: truncated")
