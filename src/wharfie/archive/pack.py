# SPDX-License-Identifier: Apache-2.0
"""Entries of what lies on disk, by descriptors: the way from a tree to an archive.

Trees of running containers change while they are read. A name is opened once, never followed, and described by what
was opened; what has gone meanwhile is left out.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator

from wharfie.archive.entry import CHAR, DIRECTORY, HARDLINK, REGULAR, SYMLINK, Entry
from wharfie.archive.scan import MAX_PATH_BYTES
from wharfie.archive.write import Writer
from wharfie.errdefs import InvalidArgument

CHUNK_BYTES = 1 << 20
_S_IFSOCK = 0o140000
_HIDDEN_XATTRS = (b"trusted.overlay.", b"user.overlay.")
_NO_XATTRS = {errno.EOPNOTSUPP, errno.ENOENT, errno.ENODATA}

if sys.platform != "win32":
    _DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    _FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

    def open_directory(name: bytes, dir_fd: int | None = None) -> int:
        """A directory, itself no link."""
        return os.open(name, _DIRECTORY, dir_fd=dir_fd)

    def describe(dir_fd: int, name: bytes, parent: bytes) -> Entry | None:
        """The entry of `name` in the directory dir_fd, called `parent` in the archive. None for a socket.

        Raises: FileNotFoundError, OSError.
        """
        st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        kind = stat.S_IFMT(st.st_mode)
        if kind == _S_IFSOCK:
            return None
        link = os.readlink(name, dir_fd=dir_fd) if kind == SYMLINK else b""
        return from_stat(parent, name, st, link, read_xattrs(dir_fd, name))

    def from_stat(
        parent: bytes, name: bytes, st: os.stat_result, link: bytes = b"", xattrs: dict[bytes, bytes] | None = None
    ) -> Entry:
        kind = stat.S_IFMT(st.st_mode)
        seconds, ns = divmod(st.st_mtime_ns, 1_000_000_000)
        device = (os.major(st.st_rdev), os.minor(st.st_rdev)) if kind in {CHAR, 0o060000} else (0, 0)
        return Entry(
            parent, name, kind, stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_size if kind == REGULAR else 0,
            seconds, ns, link, device, xattrs,
        )  # fmt: skip

    def read_xattrs(dir_fd: int, name: bytes) -> dict[bytes, bytes] | None:
        """Extended attributes of `name` in dir_fd, overlayfs's own left out; None where there are none."""
        path = b"/proc/self/fd/%d/%s" % (dir_fd, name)
        try:
            keys = os.listxattr(path, follow_symlinks=False)
            found = {}
            for key in map(os.fsencode, keys):
                if not key.startswith(_HIDDEN_XATTRS):
                    found[key] = os.getxattr(path, key, follow_symlinks=False)
        except OSError as e:
            if e.errno in _NO_XATTRS:
                return None
            raise
        return found or None

    def read(fd: int) -> Iterator[bytes]:
        """The bytes of a file, in chunks, to its end."""
        while chunk := os.read(fd, CHUNK_BYTES):
            yield chunk

    def add_file(writer: Writer, dir_fd: int, entry: Entry) -> bool:
        """Write a regular file, described by what its name opens now; False where it has gone or become something else."""
        try:
            fd = os.open(entry.name, _FILE, dir_fd=dir_fd)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as e:
            if e.errno in {errno.ELOOP, errno.ENXIO}:
                return False
            raise
        try:
            st = os.fstat(fd)
            if not stat.S_ISREG(st.st_mode):
                return False
            writer.add(from_stat(entry.parent, entry.name, st, xattrs=entry.xattrs), read(fd))
        finally:
            os.close(fd)
        return True

    def pack(writer: Writer, dir_fd: int, name: bytes = b".", at: bytes = b"") -> None:
        """Write `name` in dir_fd, and all below it, as the path `at` of the archive ("" is its root; then only what is below).

        Sorted, hard links among them kept, sockets left out, other file systems included.
        Raises: InvalidArgument (a path is too long for an archive), Aborted (a file shrinks), OSError.
        """
        parent, _, last = at.rpartition(b"/")
        entry = describe(dir_fd, name, parent)
        if entry is None:
            return
        entry.name = last
        if entry.kind == DIRECTORY:
            if at:
                writer.add(entry)
            _pack_below(writer, open_directory(name, dir_fd), at)
        elif entry.kind == REGULAR:
            fd = os.open(name, _FILE, dir_fd=dir_fd)
            try:
                writer.add(from_stat(parent, last, os.fstat(fd), xattrs=entry.xattrs), read(fd))
            finally:
                os.close(fd)
        else:
            writer.add(entry)

    def _pack_below(writer: Writer, top: int, at: bytes) -> None:
        links: dict[tuple[int, int], bytes] = {}
        stack = [(top, at, _names(top))]
        try:
            while stack:
                fd, path, names = stack[-1]
                if not names:
                    os.close(stack.pop()[0])
                    continue
                name = names.pop()
                if len(path) + len(name) >= MAX_PATH_BYTES:
                    raise InvalidArgument(f"write archive: path is too long: {path[:200]!r}…")
                try:
                    entry = describe(fd, name, path)
                except FileNotFoundError:
                    continue
                if entry is None:
                    continue
                if entry.kind == DIRECTORY:
                    try:
                        below = open_directory(name, fd)
                    except (FileNotFoundError, NotADirectoryError):
                        continue
                    writer.add(entry)
                    stack.append((below, entry.path, _names(below)))
                    continue
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if st.st_nlink > 1:
                    known = links.setdefault((st.st_dev, st.st_ino), entry.path)
                    if known != entry.path:
                        entry.kind, entry.link, entry.size = HARDLINK, known, 0
                        writer.add(entry)
                        continue
                if entry.kind != REGULAR:
                    writer.add(entry)
                elif not add_file(writer, fd, entry) and st.st_nlink > 1:
                    del links[st.st_dev, st.st_ino]
        finally:
            for fd, _, _ in stack:
                os.close(fd)

    def _names(fd: int) -> list[bytes]:
        """Names in a directory, in reverse order, to be popped."""
        return sorted(map(os.fsencode, os.listdir(fd)), reverse=True)
