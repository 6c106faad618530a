# SPDX-License-Identifier: Apache-2.0
"""Reading a `wharfie` log (format: `chunks_file`): find where to start and end, then send.

What a request doesn't touch goes by sendfile; otherwise frames are filtered, unwrapped or stamped in blocks.
"""

from __future__ import annotations

import os

from wharfie.logs import CAUGHT_UP, DONE, MORE, Entry, Selection
from wharfie.logs.chunks_file import BLOCK_BYTES, FRAME, Segment, segment_numbers
from wharfie.logs.fileio import sendfile
from wharfie.logs.lines import Stamper, after_newlines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from wharfie.logs import Copier, Request

    class End(Protocol):
        """A writer that a copier follows."""

        @property
        def position(self) -> tuple[int, int]: ...


_ALL = Selection()


def _wanted(request: Request, stream: int) -> bool:
    return request.stderr if stream == 2 else request.stdout


class ChunkReader:
    def __init__(self, directory: str) -> None:
        self._directory = directory

    def copier(self, request: Request) -> Copier:
        return ChunkCopier(self._directory, request)

    def copy_to(self, sock_fd: int, request: Request) -> None:
        copier = self.copier(request)
        try:
            while copier.step(sock_fd) == MORE:
                pass
        finally:
            copier.close()

    def entries(self, request: Request) -> Iterator[Entry]:
        copier = ChunkCopier(self._directory, request)
        try:
            yield from copier.entries()
        finally:
            copier.close()


class ChunkCopier:
    """`start` is a (segment, offset) to begin at, None to look it up; `follow` a writer whose end is the log's end."""

    def __init__(
        self, directory: str, request: Request, *, start: tuple[int, int] | None = None, follow: End | None = None
    ) -> None:
        self._directory, self._request, self._follow = directory, request, follow
        self._segment: Segment | None = None
        self._pending = b""
        self._stamper = Stamper(request.timestamps, request.details)
        self._skip: dict[int, int] = {}
        if start is None:
            start = self._find_start()
        self._number, self._at = start

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    # -- where to start

    def _find_start(self) -> tuple[int, int]:
        numbers = segment_numbers(self._directory)
        if not numbers:
            return 1, 0
        request = self._request
        tail = request.tail
        since_ns = None if request.since_s is None else int(request.since_s * 1e9)
        if tail == 0:
            return self._end_of(numbers[-1])
        first = (numbers[0], 0)
        for number in reversed(numbers):
            segment = Segment(self._directory, number)
            try:
                begin = 0 if since_ns is None else segment.first_since(since_ns)
                end = segment.end if request.until_s is None else segment.end_until(int(request.until_s * 1e9))
                if tail is not None:
                    tail, at = self._tail_in(segment, begin, end, tail)
                    if at is not None:
                        return number, at
                elif begin:
                    if begin < segment.end:
                        self._skip_partial(segment, begin)
                    return number, begin
                if begin:
                    return (number, begin)
                first = (number, 0)
            finally:
                segment.close()
        return first

    def _end_of(self, number: int) -> tuple[int, int]:
        segment = Segment(self._directory, number)
        end = segment.end
        segment.close()
        return number, end

    def _skip_partial(self, segment: Segment, begin: int) -> None:
        """Where a cut by time falls into a line, leave the rest of that line out."""
        i = segment.offsets.index(begin)
        previous = None
        for _, stream, payload in segment.frames(segment.offsets[i - 1] if i else 0, begin):
            previous = (stream, payload)
        if previous and not previous[1].endswith(b"\n"):
            for _, stream, payload in segment.frames(begin, min(segment.end, begin + 4 * BLOCK_BYTES)):
                if stream == previous[0]:
                    self._skip[begin] = payload.find(b"\n") + 1
                return

    def _tail_in(self, segment: Segment, begin: int, end: int, wanted: int) -> tuple[int, int | None]:
        """Walk back through a segment for `wanted` lines: (lines still wanted, offset or None)."""
        stop = end
        i = len(segment.offsets)
        newest = True
        while stop > begin:
            while i and (segment.offsets[i - 1] >= stop or stop - segment.offsets[i - 1] < BLOCK_BYTES // 4):
                i -= 1
            start = max(segment.offsets[i - 1] if i else 0, begin)
            frames = [f for f in segment.frames(start, stop) if _wanted(self._request, f[1])]
            count = sum(payload.count(b"\n") for _, _, payload in frames)
            if newest and frames:
                newest = False
                if not frames[-1][2].endswith(b"\n"):
                    wanted -= 1
            # The line that ends with the wanted-th newline from the end starts after the newline before it.
            if count > wanted:
                return 0, self._cut_after(frames, count - wanted)
            wanted -= count
            stop = start
        return wanted, None

    def _cut_after(self, frames: list[tuple[int, int, bytes]], newlines: int) -> int:
        """Offset of the frame in which the given number of newlines is complete; the part before is skipped."""
        for index, (offset, _, payload) in enumerate(frames):
            count = payload.count(b"\n")
            if count >= newlines:
                cut = after_newlines(payload, newlines)
                if cut == len(payload) and index + 1 < len(frames):
                    return frames[index + 1][0]
                self._skip[offset] = cut
                return offset
            newlines -= count
        raise AssertionError("newlines were counted in these frames")

    # -- sending

    def _next_segment(self) -> bool:
        """Open the segment to read, or the one after it when it is used up and has a successor."""
        if self._segment is None:
            numbers = [n for n in segment_numbers(self._directory) if n >= self._number]
            if not numbers:
                return False
            if numbers[0] != self._number:  # rotated away before we came to it
                self._number, self._at = numbers[0], 0
            self._segment = Segment(self._directory, self._number)
            return True
        if any(n > self._number for n in segment_numbers(self._directory)):
            self._segment.refresh()
            if self._at < self._segment.end:
                return True
            self._segment.close()
            self._segment, self._number, self._at = None, self._number + 1, 0
            return self._next_segment()
        return False

    def _window(self) -> tuple[Segment, int] | None:
        """The open segment and the offset up to which it may be read now; None when there is nothing."""
        if self._follow is not None and (self._number, self._at) == self._follow.position:
            return None
        if self._segment is None and not self._next_segment():
            return None
        segment = self._segment
        assert segment is not None
        if self._at >= segment.end:
            segment.refresh()
        while self._at >= segment.end:
            if not self._next_segment():
                return None
            segment = self._segment
            assert segment is not None
        until = self._request.until_s
        return segment, segment.end if until is None else segment.end_until(int(until * 1e9))

    def _untouched(self, segment: Segment) -> bool:
        r = self._request
        if r.timestamps or r.details or self._at in self._skip:
            return False
        if segment.raw:
            return r.stdout and not r.multiplexed
        return r.multiplexed and r.stdout and r.stderr

    def step(self, fd: int) -> str:
        try:
            if self._pending:
                self._pending = self._pending[os.write(fd, self._pending) :]
                return MORE
            window = self._window()
            if window is None:
                return CAUGHT_UP
            segment, end = window
            if self._at >= end:
                return DONE
            if self._untouched(segment):
                self._at += sendfile(fd, segment.data_fd, self._at, min(end - self._at, 1 << 30))
                return MORE
            self._pending = self._block(segment, end)
        except BlockingIOError:
            pass
        return MORE

    def _block(self, segment: Segment, end: int) -> bytes:
        """The next piece in the form that was asked for; moves on."""
        out: list[bytes] = []
        size = 0
        stop = min(end, self._at + 2 * BLOCK_BYTES)
        for offset, stream, payload in segment.frames(self._at, end):
            if offset >= stop and out:
                break
            self._at = offset + len(payload) + (0 if segment.raw else FRAME.size)
            if not _wanted(self._request, stream):
                if offset >= stop:
                    break
                continue
            body = payload[self._skip.pop(offset, 0) :]
            if self._stamper.active:
                body = self._stamper.stamp(stream, segment.time_at(offset), body)
            if body:
                out += (FRAME.pack(stream, len(body)), body) if self._request.multiplexed else (body,)
            size += len(body)
            if size >= BLOCK_BYTES:
                break
        return b"".join(out)

    def entries(self) -> Iterator[Entry]:
        while (window := self._window()) is not None:
            segment, end = window
            if self._at >= end:
                return
            for offset, stream, payload in segment.frames(self._at, end):
                self._at = offset + len(payload) + (0 if segment.raw else FRAME.size)
                body = payload[self._skip.pop(offset, 0) :]
                if body and _wanted(self._request, stream):
                    yield Entry(stream, segment.time_at(offset), body)
