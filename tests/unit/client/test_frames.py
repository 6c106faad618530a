# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from wharfie.client.frames import HEADER, Splitter
from wharfie.errdefs import DataLoss, WharfieError


def frame(stream: int, data: bytes) -> bytes:
    return HEADER.pack(stream, len(data)) + data


class Sink:
    """A real pipe, read by a thread."""

    def __init__(self) -> None:
        self._read, self.fd = os.pipe()
        self._parts: list[bytes] = []
        self._thread = threading.Thread(target=self._drain)
        self._thread.start()

    def _drain(self) -> None:
        while data := os.read(self._read, 1 << 16):
            self._parts.append(data)

    def close(self) -> bytes:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._thread.join()
            os.close(self._read)
        return b"".join(self._parts)


@pytest.fixture
def sinks() -> Iterator[tuple[Sink, Sink]]:
    pair = Sink(), Sink()
    yield pair
    for s in pair:
        s.close()


STREAM = [(1, b"out\n"), (2, b"err\n"), (1, b""), (1, b"x" * 100_000), (1, b"y"), (2, b"z" * 70_000), (1, b"end")] + [
    (1 + i % 3 // 2, b"line %d\n" % i) for i in range(3000)
]


@pytest.mark.parametrize("piece", [1, 3, 8, 9, 1000, 65536, 1 << 20])
def test_any_cut(sinks: tuple[Sink, Sink], piece: int) -> None:
    out, err = sinks
    splitter = Splitter(out.fd, err.fd)
    data = b"".join(frame(s, d) for s, d in STREAM)
    for at in range(0, len(data), piece):
        splitter.feed(data[at : at + piece])
    splitter.close()
    assert out.close() == b"".join(d for s, d in STREAM if s == 1)
    assert err.close() == b"".join(d for s, d in STREAM if s == 2)


def test_a_buffer_may_be_used_again(sinks: tuple[Sink, Sink]) -> None:
    out, err = sinks
    splitter = Splitter(out.fd, err.fd)
    buffer = bytearray(frame(1, b"abc")[:5])
    splitter.feed(memoryview(buffer))
    buffer[:] = b"\xff" * 5
    splitter.feed(frame(1, b"abc")[5:])
    assert out.close() == b"abc"


def test_a_stream_can_be_dropped(sinks: tuple[Sink, Sink]) -> None:
    out, _ = sinks
    Splitter(out.fd, None).feed(frame(2, b"no") + frame(1, b"yes"))
    assert out.close() == b"yes"


def test_what_is_no_stream(sinks: tuple[Sink, Sink]) -> None:
    out, err = sinks
    with pytest.raises(DataLoss, match="begins no frame"):
        Splitter(out.fd, err.fd).feed(b"plain text that is no frame")
    with pytest.raises(WharfieError, match="broken pipe in the engine"):
        Splitter(out.fd, err.fd).feed(frame(3, b"broken pipe in the engine"))
    for cut in (frame(1, b"abc")[:-1], frame(1, b"")[:4]):
        splitter = Splitter(out.fd, err.fd)
        splitter.feed(cut)
        with pytest.raises(DataLoss, match="inside a frame"):
            splitter.close()


def test_non_blocking_output(sinks: tuple[Sink, Sink]) -> None:
    out, err = sinks
    os.set_blocking(out.fd, False)
    Splitter(out.fd, err.fd).feed(frame(1, b"a" * (4 << 20)) + frame(1, b"b" * 100_000) * 20)
    assert len(out.close()) == (4 << 20) + 2_000_000
