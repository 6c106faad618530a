# SPDX-License-Identifier: Apache-2.0
"""Files of a container as a tar stream: cp from a container, and export.

Every step goes from a directory descriptor to one name in it, links not followed, so that a container that swaps parts
of a path while it is read can only change what it could have put there anyway. Bytes go by splice(2).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable

from wharfie.daemon.services.archive_root import Root

if sys.platform == "win32":
    raise ImportError("archive workers are Linux processes")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FLAGS = {
    stat.S_IFREG: b"0", stat.S_IFLNK: b"2", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4", stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}  # fmt: skip
_HARDLINK = b"1"
_ZEROS = bytes(64 << 10)
_SPLICE_BYTES = 1 << 20
_MAX_SKIPPED = 20


def _octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def _record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def _block(
    name: bytes,
    flag: bytes,
    size: int,
    *,
    mode: int = 0o644,
    ids: tuple[int, int] = (0, 0),
    mtime_s: int = 0,
    link: bytes = b"",
    device: int = 0,
) -> bytes:
    """One ustar header block; what does not fit is cut here and said in a PAX header before it."""
    raw = bytearray(512)
    raw[0:100] = name[:100].ljust(100, b"\0")
    raw[100:108] = _octal(mode, 8)
    raw[108:116] = _octal(min(ids[0], 0o7777777), 8)
    raw[116:124] = _octal(min(ids[1], 0o7777777), 8)
    raw[124:136] = _octal(min(size, 0o77777777777), 12)
    raw[136:148] = _octal(min(max(mtime_s, 0), 0o77777777777), 12)
    raw[148:156] = b" " * 8
    raw[156:157] = flag
    raw[157:257] = link[:100].ljust(100, b"\0")
    raw[257:265] = b"ustar\x0000"
    raw[329:337] = _octal(os.major(device), 8)
    raw[337:345] = _octal(os.minor(device), 8)
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def header(
    name: bytes,
    flag: bytes,
    found: os.stat_result,
    *,
    size: int = 0,
    link: bytes = b"",
    xattrs: dict[bytes, bytes] | None = None,
) -> bytes:
    """Header of one member: a PAX header where ustar has no room, then the block. Spec: POSIX.1-2017 pax."""
    records = b""
    if len(name) > 100 or not name.isascii():
        records += _record(b"path", name)
    if len(link) > 100 or not link.isascii():
        records += _record(b"linkpath", link)
    if size > 0o77777777777:
        records += _record(b"size", b"%d" % size)
    for key, id_ in ((b"uid", found.st_uid), (b"gid", found.st_gid)):
        if id_ > 0o7777777:
            records += _record(key, b"%d" % id_)
    mtime_s = found.st_mtime_ns // 10**9
    if not 0 <= mtime_s <= 0o77777777777:
        records += _record(b"mtime", b"%d" % mtime_s)
    for key, value in (xattrs or {}).items():
        records += _record(b"SCHILY.xattr." + key, value)
    block = _block(
        name,
        flag,
        size,
        mode=stat.S_IMODE(found.st_mode),
        ids=(found.st_uid, found.st_gid),
        mtime_s=mtime_s,
        link=link,
        device=found.st_rdev if flag in b"34" else 0,
    )
    if not records:
        return block
    about = _block(b"PaxHeaders.0/" + name.rstrip(b"/").rpartition(b"/")[2][:80], b"x", len(records))
    return about + records + bytes(-len(records) % 512) + block


class Packer:
    """Writes members to `out`, a pipe. `write` may be given to send them elsewhere (then nothing is spliced)."""

    def __init__(self, root: Root, out: int, *, write: Callable[[bytes], object] | None = None) -> None:
        self._root, self._out = root, out
        self._write = write or self._to_pipe
        self._splice = write is None
        self._links: dict[tuple[int, int], bytes] = {}
        self.skipped: list[str] = []
        """What could not be read (files of /proc, of a dead server), and why."""

    def _to_pipe(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._out, view) :]

    def finish(self) -> None:
        self._write(bytes(1024))

    def add(self, parent_fd: int, name: str, shown: bytes) -> None:
        """The member `name` of a directory, with all below it, called `shown` in the archive."""
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        except FileNotFoundError:
            return  # removed while we read the directory
        try:
            self._member(fd, shown)
        except OSError as e:
            self._skip(shown, e)  # nothing of it has been written yet
        finally:
            os.close(fd)

    def _skip(self, shown: bytes, e: OSError) -> None:
        if isinstance(e, BrokenPipeError):
            raise e
        if len(self.skipped) < _MAX_SKIPPED:
            self.skipped.append(f"{os.fsdecode(shown)}: {e.strerror}")

    def add_tree(self, fd: int, shown: bytes) -> None:
        """A directory that is open already."""
        self._member(fd, shown)

    def _member(self, fd: int, shown: bytes) -> None:
        found = os.fstat(fd)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFDIR:
            self._directory(fd, found, shown)
        elif kind == stat.S_IFREG:
            self._file(fd, found, shown)
        elif kind == stat.S_IFLNK:
            self._write(header(shown, _FLAGS[kind], found, link=os.readlink(b"", dir_fd=fd)))
        elif kind in _FLAGS:
            self._write(header(shown, _FLAGS[kind], found))
        # a socket has no form in a tar, and is nothing without its listener

    def _directory(self, fd: int, found: os.stat_result, shown: bytes) -> None:
        slash = shown if shown.endswith(b"/") else shown + b"/"
        try:
            inside = self._root.reopen(fd, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as e:
            self._skip(shown, e)
            return
        try:
            self._write(header(slash, b"5", found, xattrs=_xattrs(inside)))
            try:
                names = sorted(os.listdir(inside))
            except OSError as e:
                self._skip(shown, e)
                return
            for name in names:
                self.add(inside, name, slash + os.fsencode(name))
        finally:
            os.close(inside)

    def _file(self, fd: int, found: os.stat_result, shown: bytes) -> None:
        key = (found.st_dev, found.st_ino)
        if found.st_nlink > 1:
            first = self._links.get(key)
            if first is not None:
                self._write(header(shown, _HARDLINK, found, link=first))
                return
        try:
            source = self._root.reopen(fd, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as e:
            self._skip(shown, e)
            return
        try:
            size = os.fstat(source).st_size
            self._write(header(shown, b"0", found, size=size, xattrs=_xattrs(source)))
            if found.st_nlink > 1:
                self._links[key] = shown
            left = size - self._bytes(source, size, shown)
            left += -size % 512
            while left:  # padding, and zeros for what a shrinking file did not give
                left -= self._zeros(left)
        finally:
            os.close(source)

    def _zeros(self, count: int) -> int:
        chunk = _ZEROS[:count]
        self._write(chunk)
        return len(chunk)

    def _bytes(self, source: int, size: int, shown: bytes) -> int:
        done = 0
        while done < size:
            try:
                sent = self._some(source, min(size - done, _SPLICE_BYTES))
            except OSError as e:
                self._skip(shown, e)
                break
            if not sent:
                break
            done += sent
        return done

    def _some(self, source: int, count: int) -> int:
        if self._splice:
            try:
                return os.splice(source, self._out, count)
            except OSError as e:
                if e.errno != errno.EINVAL:
                    raise
                self._splice = False  # this file system cannot
        data = os.read(source, count)
        self._write(data)
        return len(data)


def _xattrs(fd: int) -> dict[bytes, bytes] | None:
    """The attributes that belong to a file's meaning: capabilities, and what users set."""
    try:
        names = os.listxattr(fd)
        wanted = [n for n in names if n == "security.capability" or n.startswith("user.")]
        return {os.fsencode(n): os.getxattr(fd, n) for n in wanted if not n.startswith("user.overlay.")} or None
    except OSError:
        return None  # none to be had here, or changed while we looked
