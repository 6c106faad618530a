# SPDX-License-Identifier: Apache-2.0
"""A tar stream into a container's files: cp to a container.

Each member is made by its single name in a directory that is opened beneath the container's root; nothing is ever opened
by a path of the archive on the host, nothing that exists is written through (it is removed and made anew), and the mode
of a file is set on the descriptor it was made with (CVE-2021-32760, CVE-2026-17106).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import NamedTuple

from wharfie.archive.entry import BLOCK, CHAR, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK, Entry
from wharfie.archive.scan import Scanner
from wharfie.daemon.services.archive_root import Root
from wharfie.errdefs import InvalidArgument, PermissionDenied
from wharfie.fsutil.beneath import mkdirs_in_root

if sys.platform == "win32":
    raise ImportError("archive workers are Linux processes")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Options(NamedTuple):
    """`owner`: of everything, in place of what the archive says. `keep_kinds`: a directory stays one, a file too."""

    owner: tuple[int, int] | None = None
    keep_kinds: bool = False


class Unpacker:
    """Unpacks into the directory `destination` of `root`."""

    def __init__(self, root: Root, destination: str, options: Options) -> None:
        self._root, self._destination, self._options = root, os.fsencode(destination.rstrip("/")), options
        self._parent: bytes | None = None
        self._parent_fd = -1
        self._times: dict[bytes, tuple[int, int]] = {}

    def run(self, scanner: Scanner) -> None:
        """Raises InvalidArgument (kinds clash, owner not mapped), PermissionDenied, OSError, and what the scanner raises."""
        try:
            for entry in scanner:
                if entry.name:
                    self._entry(entry, scanner)
            self._set_times()
        finally:
            if self._parent_fd >= 0:
                os.close(self._parent_fd)

    def _at(self, parent: bytes) -> int:
        """Descriptor of a directory of the archive, made where it is missing; the last one is kept open."""
        if parent != self._parent:
            path = os.fsdecode(self._destination + b"/" + parent)
            fd = mkdirs_in_root(self._root.fd, path, 0o755)
            if self._parent_fd >= 0:
                os.close(self._parent_fd)
            self._parent, self._parent_fd = parent, fd
        return self._parent_fd

    def _entry(self, entry: Entry, scanner: Scanner) -> None:
        at, name = self._at(entry.parent), os.fsdecode(entry.name)
        self._make_room(at, name, entry)
        try:
            self._make(at, name, entry, scanner)
        except OSError as e:
            raise self._told(entry, e) from e

    def _told(self, entry: Entry, e: OSError) -> Exception:
        path = os.fsdecode(entry.path)
        if e.errno in {errno.EINVAL, errno.EOVERFLOW}:
            uid, gid = self._options.owner or (entry.uid, entry.gid)
            return InvalidArgument(
                f"copy to container: create {path!r}: owner {uid}:{gid} is not mapped in the container's user namespace",
                hint="change the owner first, or give the container that id (-u, --group-add) or --userns=host",
            )
        if e.errno in {errno.EPERM, errno.EACCES} and entry.kind in {CHAR, BLOCK}:
            return PermissionDenied(
                f"copy to container: create device {path!r}: a container with its own user namespace can have none",
                hint="stop the container first, or leave devices out of the archive",
            )
        return OSError(e.errno, f"create: {e.strerror}", path)

    def _make_room(self, at: int, name: str, entry: Entry) -> None:
        try:
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            return
        was, will = stat.S_ISDIR(found.st_mode), entry.kind == DIRECTORY
        if self._options.keep_kinds and was != will:
            path = os.fsdecode(self._destination + b"/" + entry.path)
            words = ("directory", "non-directory") if was else ("non-directory", "directory")
            raise InvalidArgument(f"cannot overwrite {words[0]} {path!r} with {words[1]} {os.fsdecode(entry.path)!r}")
        if not (was and will):
            remove(at, name)

    def _make(self, at: int, name: str, entry: Entry, scanner: Scanner) -> None:
        uid, gid = self._options.owner or (entry.uid, entry.gid)
        if entry.kind == REGULAR:
            self._file(at, name, entry, scanner, (uid, gid))
            return
        if entry.kind == HARDLINK:
            self._hard_link(at, name, entry)
            return
        if entry.kind == DIRECTORY:
            self._directory(at, name, entry, (uid, gid))
            return
        if entry.kind == SYMLINK:
            os.symlink(os.fsdecode(entry.link), name, dir_fd=at)
        elif entry.kind in {CHAR, BLOCK, FIFO}:
            os.mknod(name, entry.kind | entry.mode, os.makedev(*entry.device), dir_fd=at)
        os.chown(name, uid, gid, dir_fd=at, follow_symlinks=False)
        _set_time(at, name, entry)

    def _file(self, at: int, name: str, entry: Entry, scanner: Scanner, owner: tuple[int, int]) -> None:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=at)
        try:
            if entry.extents is None:
                scanner.data(lambda view: _write(fd, view))
            else:
                scanner.data(_Sparse(fd, entry.extents))
                os.ftruncate(fd, entry.size)
            _attributes(fd, entry, owner)
            stamp = entry.mtime_s * 10**9 + entry.mtime_ns
            os.utime(fd, ns=(stamp, stamp))
        except BaseException:
            remove(at, name)  # half a file is worse than none
            raise
        finally:
            os.close(fd)

    def _directory(self, at: int, name: str, entry: Entry, owner: tuple[int, int]) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=at)
        except FileExistsError:
            pass
        fd = os.open(name, _DIRECTORY, dir_fd=at)
        try:
            _attributes(fd, entry, owner)
        finally:
            os.close(fd)
        self._times[entry.path] = (entry.mtime_s, entry.mtime_ns)

    def _hard_link(self, at: int, name: str, entry: Entry) -> None:
        parent, _, target = entry.link.rpartition(b"/")
        source = self._root.open(self._destination + b"/" + parent, os.O_PATH | os.O_DIRECTORY)
        try:
            os.link(target, name, src_dir_fd=source, dst_dir_fd=at, follow_symlinks=False)
        finally:
            os.close(source)

    def _set_times(self) -> None:
        """Of directories, last: what is made in them changes theirs. Deepest first."""
        for path in sorted(self._times, reverse=True):
            parent, _, name = path.rpartition(b"/")
            seconds, nanoseconds = self._times[path]
            stamp = seconds * 10**9 + nanoseconds
            try:
                os.utime(name, ns=(stamp, stamp), dir_fd=self._at(parent), follow_symlinks=False)
            except FileNotFoundError:
                continue  # the container has removed it already


class _Sparse:
    """Takes the stored bytes of a sparse file to where they belong."""

    def __init__(self, fd: int, extents: tuple[tuple[int, int], ...]) -> None:
        self._fd = fd
        self._extents = [e for e in extents if e[1]]
        self._index = self._done = 0

    def __call__(self, view: memoryview) -> None:
        while view:
            offset, length = self._extents[self._index]
            part = view[: length - self._done]
            wrote = os.pwrite(self._fd, part, offset + self._done)
            view = view[wrote:]
            self._done += wrote
            if self._done == length:
                self._index, self._done = self._index + 1, 0


def _write(fd: int, view: memoryview) -> None:
    while view:
        view = view[os.write(fd, view) :]


def _attributes(fd: int, entry: Entry, owner: tuple[int, int]) -> None:
    """Owner, then mode (a change of owner clears setuid), then extended attributes (it clears capabilities too)."""
    os.fchown(fd, *owner)
    os.fchmod(fd, entry.mode)
    for key, value in (entry.xattrs or {}).items():
        if key == b"security.capability" or key.startswith(b"user."):
            try:
                os.setxattr(fd, key, value)
            except OSError as e:
                if e.errno != errno.EOPNOTSUPP:
                    raise


def _set_time(at: int, name: str, entry: Entry) -> None:
    stamp = entry.mtime_s * 10**9 + entry.mtime_ns
    os.utime(name, ns=(stamp, stamp), dir_fd=at, follow_symlinks=False)


def remove(at: int, name: str) -> None:
    """Remove what `name` is, whole trees too."""
    try:
        os.unlink(name, dir_fd=at)
        return
    except FileNotFoundError:
        return
    except IsADirectoryError:
        pass
    fd = os.open(name, _DIRECTORY, dir_fd=at)
    try:
        for child in os.listdir(fd):
            remove(fd, child)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=at)
