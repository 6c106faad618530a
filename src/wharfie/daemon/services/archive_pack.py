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

from wharfie.archive.entry import BLOCK, CHAR, FIFO, HARDLINK, Entry
from wharfie.archive.write import header
from wharfie.daemon.services.archive_root import Root

if sys.platform == "win32":
    raise ImportError("archive workers are Linux processes")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ZEROS = bytes(64 << 10)
_SPLICE_BYTES = 1 << 20
_MAX_SKIPPED = 20


def member(
    shown: bytes,
    found: os.stat_result,
    *,
    hard: bool = False,
    size: int = 0,
    link: bytes = b"",
    xattrs: dict[bytes, bytes] | None = None,
) -> bytes:
    """Header of a member called `shown`, of the kind that it has on disk, or a hard link."""
    kind = HARDLINK if hard else stat.S_IFMT(found.st_mode)
    device = (os.major(found.st_rdev), os.minor(found.st_rdev)) if kind in {CHAR, BLOCK} else (0, 0)
    entry = Entry(
        b"",
        shown,
        kind,
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        size,
        found.st_mtime_ns // 10**9,
        0,
        link,
        device,
        xattrs,
    )
    return header(entry, whole_seconds=True)


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
            self._write(member(shown, found, link=os.readlink(b"", dir_fd=fd)))
        elif kind in {CHAR, BLOCK, FIFO}:
            self._write(member(shown, found))
        # a socket has no form in a tar, and is nothing without its listener

    def _directory(self, fd: int, found: os.stat_result, shown: bytes) -> None:
        slash = shown if shown.endswith(b"/") else shown + b"/"
        try:
            inside = self._root.reopen(fd, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as e:
            self._skip(shown, e)
            return
        try:
            self._write(member(shown, found, xattrs=_xattrs(inside)))
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
                self._write(member(shown, found, hard=True, link=first))
                return
        try:
            source = self._root.reopen(fd, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as e:
            self._skip(shown, e)
            return
        try:
            size = os.fstat(source).st_size
            self._write(member(shown, found, size=size, xattrs=_xattrs(source)))
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
