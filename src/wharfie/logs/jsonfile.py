# SPDX-License-Identifier: Apache-2.0
"""Docker's `json-file` log: a JSON object a line, {"log": text, "stream": name, "time": RFC 3339}.

Rotated files are `path.1` (newest) to `path.N`. A line longer than 16 KiB becomes several objects, only the last of
which ends in a newline. Bytes that are no UTF-8 are replaced, as Docker does.
"""

from __future__ import annotations

import calendar
import contextlib
import os
import time

import msgspec

from wharfie.logs import CAUGHT_UP, DONE, MORE, Entry
from wharfie.logs.chunks_file import FRAME
from wharfie.logs.fileio import O_CLOEXEC, pread
from wharfie.logs.lines import Stamper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from wharfie.logs import Copier, Request

_LINE_BYTES = 16 << 10
_BLOCK = 256 << 10
_NAMES = {1: "stdout", 2: "stderr"}


class Line(msgspec.Struct):
    log: str = ""
    stream: str = "stdout"
    time: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


def format_time(time_ns: int) -> str:
    """RFC 3339 with as many digits as it needs (Go's RFC3339Nano)."""
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    fraction = f".{nanos:09}".rstrip("0").rstrip(".")
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}{fraction}Z"


def parse_time(text: str) -> int:
    """Nanoseconds of what `format_time` or dockerd wrote; 0 for anything else."""
    try:
        seconds = calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0
    digits = text[20:].rstrip("Z") if text[19:20] == "." else ""
    return seconds * 1_000_000_000 + (int(digits[:9].ljust(9, "0")) if digits.isdigit() else 0)


class JsonFileWriter:
    def __init__(self, path: str, *, max_size_bytes: int = 0, max_files: int = 1) -> None:
        self._path, self._max_size, self._max_files = path, max_size_bytes, max(max_files, 1)
        self._partial: dict[int, bytes] = {}
        self.lost_bytes = 0
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        self._open()
        self._cut_torn_tail()

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size

    def _cut_torn_tail(self) -> None:
        tail = pread(self._fd, 1 << 20, max(self._size - (1 << 20), 0))
        torn = len(tail) - (tail.rfind(b"\n") + 1)
        if torn:
            os.ftruncate(self._fd, self._size - torn)
            self._size -= torn

    def write(self, stream: int, data: bytes | memoryview) -> None:
        lines = (self._partial.pop(stream, b"") + bytes(data)).splitlines(keepends=True)
        lines = _only_newlines(lines)
        if lines and not lines[-1].endswith(b"\n") and len(lines[-1]) < _LINE_BYTES:
            self._partial[stream] = lines.pop()
        if lines:
            self._put(stream, lines)

    def _put(self, stream: int, lines: list[bytes]) -> None:
        name, now = _NAMES[stream], format_time(time.time_ns())
        out = bytearray()
        for line in lines:
            for at in range(0, len(line), _LINE_BYTES):
                text = line[at : at + _LINE_BYTES].decode(errors="replace")
                out += _encode(Line(text, name, now)) + b"\n"
        try:
            if self._max_size and self._size and self._size + len(out) > self._max_size:
                self._rotate()
            view = memoryview(out)
            while view:
                view = view[os.write(self._fd, view) :]
            self._size += len(out)
        except OSError:  # as in `chunks_writer`: the container goes on
            self.lost_bytes += sum(map(len, lines))
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)

    def _rotate(self) -> None:
        os.close(self._fd)
        if self._max_files == 1:
            os.unlink(self._path)
        for number in range(self._max_files - 1, 0, -1):
            older = f"{self._path}.{number - 1}" if number > 1 else self._path
            with contextlib.suppress(FileNotFoundError):
                os.rename(older, f"{self._path}.{number}")
        self._open()

    def copier(self, request: Request, *, live: bool = False) -> Copier | None:
        return None if live else JsonFileCopier(self._path, request, follow=True)

    def close(self) -> None:
        for stream, rest in tuple(self._partial.items()):
            self._put(stream, [rest])
        self._partial.clear()
        os.close(self._fd)


def _only_newlines(lines: list[bytes]) -> list[bytes]:
    r"""Undo what bytes.splitlines cuts beyond "\n": lone carriage returns."""
    out: list[bytes] = []
    for line in lines:
        if out and not out[-1].endswith(b"\n"):
            out[-1] += line
        else:
            out.append(line)
    return out


class JsonFileReader:
    def __init__(self, path: str) -> None:
        self._path = path

    def copier(self, request: Request) -> Copier:
        return JsonFileCopier(self._path, request)

    def copy_to(self, sock_fd: int, request: Request) -> None:
        copier = self.copier(request)
        try:
            while copier.step(sock_fd) == MORE:
                pass
        finally:
            copier.close()

    def entries(self, request: Request) -> Iterator[Entry]:
        copier = JsonFileCopier(self._path, request)
        try:
            while (block := copier.next_block()) is not None:
                yield from block
        finally:
            copier.close()


class JsonFileCopier:
    """Reads oldest file first. Rotation under a reader: it holds the files it saw, then goes on with the new one."""

    def __init__(self, path: str, request: Request, *, follow: bool = False) -> None:
        self._path, self._request, self._follow = path, request, follow
        self._files: list[int] = []
        self._open_all()
        self._at = self._seek_tail() if request.tail is not None else 0
        self._pending = b""
        self._until_reached = False
        self._stamper = Stamper(request.timestamps, request.details)

    def _open_all(self) -> None:
        directory, name = os.path.split(self._path)
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            return
        numbers = sorted((int(n[len(name) + 1 :]) for n in names if n.startswith(f"{name}.") and n[len(name) + 1 :].isdigit()), reverse=True)  # fmt: skip
        for path in [*(f"{self._path}.{n}" for n in numbers), self._path]:
            with contextlib.suppress(FileNotFoundError):
                self._files.append(os.open(path, os.O_RDONLY | O_CLOEXEC))

    def _seek_tail(self) -> int:
        """Drop the files before the one in which the last `tail` lines begin; offset in that."""
        wanted = self._request.tail or 0
        for index in range(len(self._files) - 1, -1, -1):
            fd = self._files[index]
            at = end = os.fstat(fd).st_size
            while at > 0:
                start = max(at - _BLOCK, 0)
                block = pread(fd, at - start, start)
                cut = len(block)
                while (cut := block.rfind(b"\n", 0, cut)) >= 0:
                    if start + cut + 1 == end:
                        continue
                    wanted -= 1
                    if wanted <= 0:
                        return self._start_at(index, start + cut + 1 if wanted == 0 else end)
                at = start
            if end:
                wanted -= 1
            if wanted <= 0:
                return self._start_at(index, 0 if wanted == 0 else end)
        return 0

    def _start_at(self, index: int, offset: int) -> int:
        for fd in self._files[:index]:
            os.close(fd)
        del self._files[:index]
        return offset

    def next_block(self) -> list[Entry] | None:
        """Some entries (perhaps none that are wanted); None when nothing is there (yet)."""
        while self._files:
            data = pread(self._files[0], _BLOCK, self._at)
            whole = data.rfind(b"\n") + 1
            if whole:
                self._at += whole
                return self._select(data[:whole])
            if len(self._files) == 1 and not self._rotated():
                return None
            os.close(self._files.pop(0))
            self._at = 0
        if self._follow:
            self._open_all()
        return None

    def _rotated(self) -> bool:
        """Whether the file that we are at the end of has been moved away; the new one is opened then."""
        if not self._follow:
            return False
        try:
            new = os.open(self._path, os.O_RDONLY | O_CLOEXEC)
        except FileNotFoundError:
            return False
        if os.fstat(new).st_ino == os.fstat(self._files[0]).st_ino:
            os.close(new)
            return False
        self._files.append(new)
        return True

    def _select(self, data: bytes) -> list[Entry]:
        r = self._request
        since = 0 if r.since_s is None else int(r.since_s * 1e9)
        until = None if r.until_s is None else int(r.until_s * 1e9)
        out = []
        for raw in data.splitlines():
            try:
                line = _decode(raw)
            except msgspec.MsgspecError:
                continue  # torn by a power cut
            at = parse_time(line.time)
            if until is not None and at > until:
                self._until_reached = True
                break
            stream = 2 if line.stream == "stderr" else 1
            if at >= since and (r.stderr if stream == 2 else r.stdout):
                out.append(Entry(stream, at, line.log.encode()))
        return out

    def step(self, fd: int) -> str:
        try:
            if self._pending:
                self._pending = self._pending[os.write(fd, self._pending) :]
                return MORE
        except BlockingIOError:
            return MORE
        if self._until_reached:
            return DONE
        block = self.next_block()
        if block is None:
            return CAUGHT_UP
        out: list[bytes] = []
        for stream, at, data in block:
            body = self._stamper.stamp(stream, at, data) if self._stamper.active else data
            out += (FRAME.pack(stream, len(body)), body) if self._request.multiplexed else (body,)
        self._pending = b"".join(out)
        return MORE

    def close(self) -> None:
        for fd in self._files:
            os.close(fd)
        self._files.clear()
