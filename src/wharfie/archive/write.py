# SPDX-License-Identifier: Apache-2.0
"""A streaming tar writer that has one form for every entry: the same entries give the same bytes.

ustar headers; a PAX header before one only where ustar cannot say it (long or odd names, large numbers, fractions of a
second, extended attributes), with its records in the order of their keys. No user or group names: they would depend on
the host. Two zero blocks end the archive.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

from wharfie.archive.entry import BLOCK, CHAR, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK, Entry
from wharfie.errdefs import Aborted

_TYPES = {
    REGULAR: b"0", HARDLINK: b"1", SYMLINK: b"2", CHAR: b"3", BLOCK: b"4", DIRECTORY: b"5", FIFO: b"6",
}  # fmt: skip
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_MAX_ID = 0o7777777
_MAX_LONG = 0o77777777777
_ZEROS = bytes(512)

Put = Callable[["bytes | memoryview"], object]


class Writer:
    """Writes entries through `put`. `whole_seconds` leaves fractions of times out, as most tars do."""

    def __init__(self, put: Put, *, whole_seconds: bool = False) -> None:
        self._put = put
        self._whole_seconds = whole_seconds

    def add(self, entry: Entry, data: Iterable[bytes | memoryview] = ()) -> None:
        """Write one entry; `data` is exactly `entry.size` bytes of a regular file, more is cut off.

        Raises: Aborted where there is less: the file has shrunk, and the archive cannot be finished.
        """
        self._put(header(entry, whole_seconds=self._whole_seconds))
        left = entry.size if entry.kind == REGULAR else 0
        if not left:
            return
        size = left
        for chunk in data:
            piece = chunk if len(chunk) <= left else memoryview(chunk)[:left]
            self._put(piece)
            left -= len(piece)
            if not left:
                break
        if left:
            raise Aborted(f"write archive: {entry.path!r} has shrunk by {left} bytes meanwhile")
        self._put(_ZEROS[: -size & 511])

    def close(self) -> None:
        """Write the end of the archive."""
        self._put(bytes(1024))


def header(entry: Entry, *, whole_seconds: bool = False) -> bytes:
    """The header of an entry, with the PAX header before it that it may need."""
    name = entry.path or b"."
    if entry.kind == DIRECTORY:
        name += b"/"
    pax: dict[bytes, bytes] = {}
    if len(name) > 100:
        pax[b"path"] = name
    if len(entry.link) > 100:
        pax[b"linkpath"] = entry.link
    size = entry.size if entry.kind == REGULAR else 0
    numbers = {}
    for key, value, largest in ((b"uid", entry.uid, _MAX_ID), (b"gid", entry.gid, _MAX_ID), (b"size", size, _MAX_LONG)):
        if value > largest:
            pax[key] = b"%d" % value
        numbers[key] = value if value <= largest else 0
    seconds, ns = entry.mtime_s, 0 if whole_seconds else entry.mtime_ns
    if ns or not 0 <= seconds <= _MAX_LONG:
        pax[b"mtime"] = _time(seconds, ns)
    for attribute, content in (entry.xattrs or {}).items():
        pax[b"SCHILY.xattr." + attribute] = content
    block = _block(
        name[:100], entry.mode, numbers[b"uid"], numbers[b"gid"], numbers[b"size"],
        min(max(seconds, 0), _MAX_LONG), _TYPES[entry.kind], entry.link[:100], entry.device,
    )  # fmt: skip
    if not pax:
        return block
    body = b"".join(_record(key, pax[key]) for key in sorted(pax))
    before = _block(b"PaxHeaders/" + name[:89], 0o644, 0, 0, len(body), 0, b"x", b"", (0, 0))
    return before + body + _ZEROS[: -len(body) & 511] + block


def _block(  # noqa: PLR0917 - the fields of a header, in its order
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    kind: bytes,
    link: bytes,
    device: tuple[int, int],
) -> bytes:
    raw = _HEADER.pack(
        name, b"%07o\0" % mode, b"%07o\0" % uid, b"%07o\0" % gid, b"%011o\0" % size, b"%011o\0" % mtime, b" " * 8, kind,
        link, b"ustar\00000", b"", b"", b"%07o\0" % device[0], b"%07o\0" % device[1], b"",
    )  # fmt: skip
    return raw[:148] + b"%06o\0 " % sum(raw) + raw[156:]


def _record(key: bytes, value: bytes) -> bytes:
    r"""`LENGTH KEY=VALUE\n`, where LENGTH counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _time(seconds: int, ns: int) -> bytes:
    sign = b""
    if seconds < 0:
        sign = b"-"
        seconds, ns = (-seconds - 1, 1_000_000_000 - ns) if ns else (-seconds, 0)
    return (b"%s%d.%09d" % (sign, seconds, ns)).rstrip(b"0") if ns else b"%s%d" % (sign, seconds)
