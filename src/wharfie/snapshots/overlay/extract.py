# SPDX-License-Identifier: Apache-2.0
"""Extraction of a layer beneath a directory, by descriptors, one path component at a time.

The kernel never follows a symbolic link for us: each component is opened with RESOLVE_NO_SYMLINKS, and links are read
and resolved here, inside the root. The directory belongs to this extraction alone until it is renamed into place, but
nothing depends on that: a name is only ever used together with the descriptor of its directory.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

from wharfie.archive import layer
from wharfie.archive.entry import CHAR, DIRECTORY, HARDLINK, REGULAR, SYMLINK, Entry
from wharfie.archive.pipeline import full
from wharfie.errdefs import DataLoss, FailedPrecondition
from wharfie.linux.openat2 import O_DIRECTORY, O_RDONLY, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from wharfie.snapshots.tree import Tree

_MAX_LINKS = 40
_MAX_OPEN = 200
_STEP = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_KNOWN_XATTRS = (b"user.", b"trusted.", b"security.", b"system.posix_acl_")
_DEFAULT_ACL = b"system.posix_acl_default"
_PROC = "/proc/self/fd/"


class Source(Protocol):
    """A `Scanner`, or what stands in for it."""

    def __iter__(self) -> Iterator[Entry]: ...

    def data(self, take: Callable[[memoryview], object]) -> None: ...


if sys.platform != "win32":
    from wharfie.snapshots.removal import empty_below

    class Extractor:
        """Puts the entries of one layer below `root_fd` (kept open by the caller).

        With `overlay`, whiteouts and opaque directories take overlayfs's form, and the directory holds this layer only.
        Without, they were carried out before (`delete`), and the layers below lie there already. `tree` is grown alongside:
        it refuses the same layers as the other snapshotters, and knows what was found.
        """

        def __init__(self, root_fd: int, *, overlay: bool) -> None:
            self._root = root_fd
            self.tree = Tree()
            self._overlay = overlay
            self._open: dict[bytes, int] = {}
            self._times: dict[bytes, tuple[int, int]] = {}
            self._whiteouts: dict[bytes, set[bytes]] = {}
            self._opaque: set[bytes] = set()
            self._acls: dict[bytes, bytes] = {}
            self._stale = False
            self.bytes = 0

        def run(self, scanner: Source) -> None:
            """Extract everything. Raises DataLoss (what may not be), ResourceExhausted (disk full), OSError."""
            try:
                for entry in scanner:
                    try:
                        self._put(entry, scanner)
                    except OSError as e:
                        raise full(e, f"extract {entry.path!r}") from e
                self._finish()
            finally:
                self._forget()

        def delete(self, scanner: Source) -> None:
            """Carry out the whiteouts of a layer on what lies there from below; put nothing."""
            try:
                for entry in scanner:
                    what, name = layer.whiteout(entry)
                    if what in {layer.DELETES, layer.CLEARS}:
                        parent = self._directory(entry.parent, make=False)
                        if parent is None:
                            continue
                        for victim in [name] if what == layer.DELETES else os.listdir(f"{_PROC}{parent}"):
                            self._clear(parent, os.fsencode(victim))
                self._finish()
            finally:
                self._forget()

        def _put(self, entry: Entry, scanner: Source) -> None:
            self.tree.add(entry)
            if self._stale:
                self._forget()
            parent = self._directory(entry.parent)
            assert parent is not None
            name = entry.name
            if name.startswith(layer.WHITEOUT_PREFIX) and self._whiteout(entry, parent):
                return
            kind = entry.kind
            if kind == DIRECTORY:
                self._put_directory(entry, parent)
            elif kind == REGULAR:
                self._put_file(entry, parent, scanner)
            elif kind == HARDLINK:
                self._put_hardlink(entry, parent)
            elif kind == SYMLINK:
                self._made(lambda: os.symlink(entry.link, name, dir_fd=parent), parent, name)
                os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
                self._attributes(entry, f"{_PROC}{parent}/".encode() + name)
                os.utime(name, ns=(_ns(entry), _ns(entry)), dir_fd=parent, follow_symlinks=False)
            else:
                device = os.makedev(*entry.device)
                self._made(lambda: os.mknod(name, kind | 0o600, device, dir_fd=parent), parent, name)
                os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
                self._attributes(entry, f"{_PROC}{parent}/".encode() + name)
                os.chmod(name, entry.mode, dir_fd=parent)  # chown has cleared the set-id bits
                os.utime(name, ns=(_ns(entry), _ns(entry)), dir_fd=parent, follow_symlinks=False)

        def _made(self, make: Callable[[], object], parent: int, name: bytes) -> None:
            """Make something new; what stands in the way from earlier goes first."""
            try:
                make()
            except FileExistsError:
                self._clear(parent, name)
                make()

        def _put_directory(self, entry: Entry, parent: int) -> None:
            name = entry.name
            if name:
                try:
                    os.mkdir(name, 0o700, dir_fd=parent)
                except FileExistsError:
                    there = os.stat(name, dir_fd=parent, follow_symlinks=False)
                    if not stat.S_ISDIR(there.st_mode):
                        self._clear(parent, name)
                        os.mkdir(name, 0o700, dir_fd=parent)
                        if self._overlay and _is_whiteout(there):
                            self._opaque.add(entry.path)
            fd = openat2(parent, name or b".", O_RDONLY | O_DIRECTORY, 0, _STEP)
            try:
                os.chown(fd, entry.uid, entry.gid)
                self._attributes(entry, fd)
                os.chmod(fd, entry.mode)
            finally:
                os.close(fd)
            self._times[entry.path] = (entry.mtime_s, entry.mtime_ns)
            self.bytes += 4096

        def _put_file(self, entry: Entry, parent: int, scanner: Source) -> None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                fd = os.open(entry.name, flags, 0o600, dir_fd=parent)
            except FileExistsError:
                self._clear(parent, entry.name)
                fd = os.open(entry.name, flags, 0o600, dir_fd=parent)
            try:
                if entry.extents is not None:
                    _write_sparse(fd, entry, scanner)
                elif entry.size:
                    scanner.data(lambda view: _write(fd, view))
                os.fchown(fd, entry.uid, entry.gid)
                self._attributes(entry, fd)
                os.fchmod(fd, entry.mode)
                os.utime(fd, ns=(_ns(entry), _ns(entry)))
            finally:
                os.close(fd)
            self.bytes += entry.stored + 4095 & ~4095

        def _put_hardlink(self, entry: Entry, parent: int) -> None:
            to_path, _, to_name = entry.link.rpartition(b"/")
            to = self._directory(to_path, make=False)
            try:
                if to is None:
                    raise FileNotFoundError
                target = os.stat(to_name, dir_fd=to, follow_symlinks=False)
            except FileNotFoundError:
                target = None
            if target is None or (self._overlay and _is_whiteout(target)):
                raise DataLoss(
                    f"read layer: {entry.path!r}: hard link to {entry.link[:200]!r}, which is not in this layer"
                )
            if stat.S_ISDIR(target.st_mode):
                raise DataLoss(f"read layer: {entry.path!r}: hard link to a directory")
            assert to is not None
            try:
                os.link(to_name, entry.name, src_dir_fd=to, dst_dir_fd=parent, follow_symlinks=False)
            except FileExistsError:
                there = os.stat(entry.name, dir_fd=parent, follow_symlinks=False)
                if (there.st_dev, there.st_ino) == (target.st_dev, target.st_ino):
                    return
                # By a new name first: the target may lie in what goes.
                aside = b".wh..wh.link"
                os.link(to_name, aside, src_dir_fd=to, dst_dir_fd=self._root, follow_symlinks=False)
                self._clear(parent, entry.name)
                os.rename(aside, entry.name, src_dir_fd=self._root, dst_dir_fd=parent)

        def _whiteout(self, entry: Entry, parent: int) -> bool:
            what, name = layer.whiteout(entry)
            if what and not self._overlay:
                return True
            if what == layer.CLEARS:
                self._opaque.add(entry.parent)
            elif what == layer.DELETES:
                try:
                    os.mknod(name, CHAR | 0o000, os.makedev(0, 0), dir_fd=parent)
                except FileExistsError:
                    if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                        # Deleted below and made again in this layer, in whatever order they stand.
                        self._opaque.add(entry.parent + b"/" + name if entry.parent else name)
                    return True
                self._whiteouts.setdefault(entry.parent, set()).add(name)
            return bool(what)

        def _attributes(self, entry: Entry, target: int | bytes) -> None:
            if not entry.xattrs:
                return
            follow = isinstance(target, int)
            if entry.kind == DIRECTORY and _DEFAULT_ACL in entry.xattrs:
                self._acls[entry.path] = entry.xattrs[_DEFAULT_ACL]
            for key, value in entry.xattrs.items():
                if not key.startswith(_KNOWN_XATTRS) or key == _DEFAULT_ACL:
                    continue  # a namespace of another system; or what new files would inherit, put on at the end
                try:
                    os.setxattr(target, key, value, follow_symlinks=follow)
                except OSError as e:
                    if e.errno in {errno.EOPNOTSUPP, errno.EPERM}:
                        raise FailedPrecondition(
                            f"extract {entry.path!r}: setxattr {key.decode(errors='replace')!r}: {os.strerror(e.errno)}",
                            hint="put the engine's root on a file system with extended attributes (ext4, xfs, btrfs)",
                        ) from e
                    raise

        def _directory(self, path: bytes, *, make: bool = True) -> int | None:
            """Descriptor of the directory `path`, kept by this object; made with its parents, or None, where it is missing."""
            fd = self._open.get(path)
            if fd is not None:
                return fd
            if not path:
                fd = self._open[b""] = os.dup(self._root)
                self._note(path, fd)
                return fd
            fd = self._walk(path, make)
            if fd is None:
                return None
            if len(self._open) >= _MAX_OPEN:
                self._forget()
            self._open[path] = fd
            self._note(path, fd)
            return fd

        def _note(self, path: bytes, fd: int) -> None:
            """Remember a directory's time: what is put into it changes it."""
            if path not in self._times:
                ns = os.stat(fd).st_mtime_ns
                self._times[path] = divmod(ns, 1_000_000_000)

        def _walk(self, path: bytes, make: bool) -> int | None:
            stack = [os.dup(self._root)]
            names: list[bytes] = []
            parts = path.split(b"/")[::-1]
            links = 0
            try:
                while parts:
                    part = parts.pop()
                    if part in {b"", b"."}:
                        continue
                    if part == b"..":  # of a symbolic link: paths of entries have none
                        if len(stack) > 1:
                            os.close(stack.pop())
                            names.pop()
                        continue
                    found = self._step(stack[-1], names, part, make=make)
                    if found is None:
                        return None
                    if isinstance(found, bytes):
                        links += 1
                        if links > _MAX_LINKS:
                            raise DataLoss(f"read layer: {path[:200]!r}: too many symbolic links")
                        if found.startswith(b"/"):
                            while len(stack) > 1:
                                os.close(stack.pop())
                            names.clear()
                        parts += found.split(b"/")[::-1]
                        continue
                    stack.append(found)
                    names.append(part)
                return stack.pop()
            finally:
                for fd in stack:
                    os.close(fd)

        def _step(self, parent: int, names: list[bytes], part: bytes, *, make: bool) -> int | bytes | None:
            """One component: a descriptor, a symbolic link's text, or None where it is missing and not to be made."""
            try:
                return openat2(parent, part, O_RDONLY | O_DIRECTORY, 0, _STEP)
            except FileNotFoundError:
                whiteout = False
            except OSError as e:
                if e.errno not in {errno.ENOTDIR, errno.ELOOP}:
                    raise
                there = os.stat(part, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISLNK(there.st_mode):
                    return os.readlink(part, dir_fd=parent)
                whiteout = self._overlay and _is_whiteout(there)
                if not whiteout:
                    raise DataLoss(
                        f"read layer: {b'/'.join([*names, part])[:200]!r}: a parent is no directory"
                    ) from None
            if not make:
                return None
            if whiteout:
                os.unlink(part, dir_fd=parent)
            self._note(b"/".join(names), parent)
            os.mkdir(part, 0o755, dir_fd=parent)
            fd = openat2(parent, part, O_RDONLY | O_DIRECTORY, 0, _STEP)
            os.chown(fd, 0, 0)  # not the group of a set-gid parent
            os.chmod(fd, 0o755)
            if whiteout:
                os.setxattr(fd, layer.OPAQUE_XATTR, b"y")
            self._times[b"/".join([*names, part])] = (0, 0)
            return fd

        def _clear(self, parent: int, name: bytes) -> None:
            """Remove `name`, whatever it is."""
            try:
                there = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return
            if stat.S_ISDIR(there.st_mode) or stat.S_ISLNK(there.st_mode):
                self._stale = True  # descriptors are kept by paths, which may lead through it
            if stat.S_ISDIR(there.st_mode):
                empty_below(parent, name)
            else:
                os.unlink(name, dir_fd=parent)

        def _forget(self) -> None:
            for fd in self._open.values():
                os.close(fd)
            self._open.clear()
            self._stale = False

        def _finish(self) -> None:
            self._forget()
            for path in self._opaque:
                fd = self._directory(path, make=False)
                if fd is not None:
                    os.setxattr(fd, layer.OPAQUE_XATTR, b"y")
            for path, names in self._whiteouts.items():
                fd = self._directory(path, make=False)
                if fd is None:
                    continue
                if _has_xattr(fd, layer.OPAQUE_XATTR):
                    self._drop_whiteouts(fd, names)
                else:
                    # Else overlayfs lists whiteouts raw where no lower layer has this directory.
                    os.setxattr(fd, layer.ORIGIN_XATTR, b"")
            for path, value in self._acls.items():
                fd = self._directory(path, make=False)
                if fd is not None:
                    os.setxattr(fd, _DEFAULT_ACL, value)
            self._forget()
            for path in sorted(self._times, key=len, reverse=True):
                try:
                    fd = self._walk(path, make=False) if path else os.dup(self._root)
                except DataLoss:
                    continue  # replaced by something else since
                if fd is not None:
                    s, ns = self._times[path]
                    os.utime(fd, ns=(s * 1_000_000_000 + ns,) * 2)
                    os.close(fd)

        def _drop_whiteouts(self, fd: int, names: set[bytes]) -> None:
            for name in names:
                try:
                    if _is_whiteout(os.stat(name, dir_fd=fd, follow_symlinks=False)):
                        os.unlink(name, dir_fd=fd)
                except FileNotFoundError:
                    continue

    def _is_whiteout(st: os.stat_result) -> bool:
        return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0

    def _has_xattr(fd: int, name: str) -> bool:
        return name in os.listxattr(fd)

    def _ns(entry: Entry) -> int:
        return entry.mtime_s * 1_000_000_000 + entry.mtime_ns

    def _write(fd: int, view: memoryview) -> None:
        while view:
            view = view[os.write(fd, view) :]

    def _write_sparse(fd: int, entry: Entry, scanner: Source) -> None:
        todo = iter(entry.extents or ())
        left = 0

        def take(view: memoryview) -> None:
            nonlocal left
            while view:
                if not left:
                    offset, left = next(todo)
                    os.lseek(fd, offset, os.SEEK_SET)
                piece = view[:left]
                _write(fd, piece)
                left -= len(piece)
                view = view[len(piece) :]

        scanner.data(take)
        os.ftruncate(fd, entry.size)
