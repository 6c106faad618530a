# SPDX-License-Identifier: Apache-2.0
"""Files of the `wharfie` log format. A log is a directory of numbered segments, each a pair:

`NNNNNNNN.log`  the output. Without a terminal: Docker's stream frames (stream, 0, 0, 0, length as 4 bytes big endian,
                payload), one for each read from the container. With a terminal: the raw bytes.
`NNNNNNNN.idx`  16-byte records. First the header: b"WHLOG", version, flags (1: raw), 0, creation time (ns, little
                endian u64). Then (offset, time_ns), little endian u64 each: from `offset` (the start of a frame) on,
                output came at `time_ns`. A new record comes after a millisecond or 256 KiB, whichever is first, so
                times are exact to a millisecond and no block between records is large.

The data is written first, then the record. After a kill both ends can be torn: readers and the next writer cut an
index to whole records within the data, and data after the last record to whole frames.
"""

from __future__ import annotations

import bisect
import os
import struct
from array import array

from wharfie.errdefs import DataLoss
from wharfie.logs.fileio import O_CLOEXEC, pread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD = struct.Struct("<QQ")
HEADER = struct.Struct("<5sBBxQ")
FRAME = struct.Struct(">BxxxI")
MAGIC, VERSION, RAW = b"WHLOG", 1, 1
BLOCK_BYTES = 256 << 10
BLOCK_NS = 1_000_000


def segment_numbers(directory: str) -> list[int]:
    """Numbers of the segments of a log, oldest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(int(n[:-4]) for n in names if n.endswith(".idx") and n[:-4].isdigit())


def segment_path(directory: str, number: int, suffix: str) -> str:
    return f"{directory}/{number:08}.{suffix}"


class Segment:
    """One pair of files, open for reading. `refresh()` sees what has been appended since."""

    def __init__(self, directory: str, number: int) -> None:
        self.number = number
        flags = os.O_RDONLY | O_CLOEXEC
        self.index_fd = os.open(segment_path(directory, number, "idx"), flags)
        try:
            head = pread(self.index_fd, HEADER.size, 0)
            if len(head) < HEADER.size:
                head = HEADER.pack(MAGIC, VERSION, 0, 0)  # killed at its very first write: nothing is in it
            magic, version, bits, self.created_ns = HEADER.unpack(head)
            if magic != MAGIC or version != VERSION:
                raise DataLoss(
                    f"read log {directory!r}: segment {number} has format {magic!r} version {version}",
                    hint="a newer wharfie wrote it",
                )
            self.raw = bool(bits & RAW)
            self.data_fd = os.open(segment_path(directory, number, "log"), flags)
        except BaseException:
            os.close(self.index_fd)
            raise
        self.offsets, self.times = array("Q"), array("Q")
        self.end = 0
        self.refresh()

    def refresh(self) -> None:
        """Read new index records, and find the end of the last whole frame."""
        size = os.fstat(self.data_fd).st_size
        at = HEADER.size + len(self.offsets) * RECORD.size
        while data := pread(self.index_fd, 1 << 20, at):
            whole = len(data) // RECORD.size * RECORD.size
            pairs = array("Q", data[:whole])
            if struct.pack("=Q", 1) != struct.pack("<Q", 1):
                pairs.byteswap()
            self.offsets += pairs[0::2]
            self.times += pairs[1::2]
            at += whole
            if whole < len(data):
                break
        while self.offsets and self.offsets[-1] >= size:
            self.offsets.pop()
            self.times.pop()
        if self.raw:
            self.end = size
            return
        end = max(self.end, self.offsets[-1] if self.offsets else 0)
        while end + FRAME.size <= size:
            _, length = FRAME.unpack(pread(self.data_fd, FRAME.size, end))
            if end + FRAME.size + length > size:
                break
            end += FRAME.size + length
        self.end = end

    def time_at(self, offset: int) -> int:
        """When the output at `offset` came."""
        i = bisect.bisect_right(self.offsets, offset) - 1
        return self.times[max(i, 0)] if self.times else self.created_ns

    def first_since(self, time_ns: int) -> int:
        """Offset of the first output that came at or after a time; `end` if none did."""
        i = bisect.bisect_left(self.times, time_ns)
        return self.offsets[i] if i < len(self.offsets) else self.end

    def end_until(self, time_ns: int) -> int:
        """Offset of the first output that came after a time; `end` if none did."""
        i = bisect.bisect_right(self.times, time_ns)
        return self.offsets[i] if i < len(self.offsets) else self.end

    def frames(self, start: int, end: int) -> Iterator[tuple[int, int, bytes]]:
        """(offset, stream, payload) between two frame borders; raw data comes in blocks of the index."""
        at = start
        while at < end:
            data = pread(self.data_fd, min(4 * BLOCK_BYTES, end - at), at)
            if self.raw:
                yield from self._raw_blocks(at, data)
                at += len(data)
                if not data:
                    return
                continue
            used = 0
            while used + FRAME.size <= len(data):
                stream, length = FRAME.unpack_from(data, used)
                if used + FRAME.size + length > len(data):
                    break
                yield at + used, stream, data[used + FRAME.size : used + FRAME.size + length]
                used += FRAME.size + length
            if not used:
                _, length = FRAME.unpack_from(data)
                payload = pread(self.data_fd, length, at + FRAME.size)
                yield at, data[0], payload
                used = FRAME.size + length
            at += used

    def _raw_blocks(self, at: int, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        end, start = at + len(data), at
        i = bisect.bisect_right(self.offsets, at)
        while start < end:
            stop = min(self.offsets[i] if i < len(self.offsets) else end, end)
            yield start, 1, data[start - at : stop - at]
            start, i = stop, i + 1

    def close(self) -> None:
        os.close(self.data_fd)
        os.close(self.index_fd)
