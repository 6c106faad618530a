# SPDX-License-Identifier: Apache-2.0
"""Copying a tree with everything that makes it up: owners, modes, times, xattrs, hard links, holes, devices."""

from __future__ import annotations

import errno
import os
import stat
import sys

from wharfie.archive.pipeline import full

if sys.platform != "win32":
    import fcntl

    _FICLONE = 0x40049409
    _OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    _NO_COPY_RANGE = {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}
    _PROC = "/proc/self/fd/"

    def copy_tree(source: str, target: str) -> None:
        """Copy the directory `source` over the empty directory `target`. Raises ResourceExhausted (disk full), OSError.

        Nobody may change `source` meanwhile.
        """
        links: dict[tuple[int, int], str] = {}
        pending = [""]
        made = []
        while pending:
            path = pending.pop()
            made.append(path)
            from_fd = os.open(source + path, _OPEN | os.O_DIRECTORY)
            to_fd = os.open(target + path, _OPEN | os.O_DIRECTORY)
            try:
                with os.scandir(from_fd) as entries:
                    for entry in entries:
                        st = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(st.st_mode):
                            os.mkdir(entry.name, 0o700, dir_fd=to_fd)
                            pending.append(f"{path}/{entry.name}")
                            continue
                        known = links.get((st.st_dev, st.st_ino)) if st.st_nlink > 1 else None
                        if known is not None:
                            os.link(target + known, entry.name, dst_dir_fd=to_fd, follow_symlinks=False)
                            continue
                        if st.st_nlink > 1:
                            links[st.st_dev, st.st_ino] = f"{path}/{entry.name}"
                        _copy(from_fd, to_fd, entry.name, st)
            except OSError as e:
                raise full(e, f"copy {source + path!r}") from e
            finally:
                os.close(from_fd)
                os.close(to_fd)
        # Deepest first: making things in a directory has changed its time.
        for path in reversed(made):
            st = os.lstat(source + path)
            fd = os.open(target + path, _OPEN | os.O_DIRECTORY)
            try:
                os.fchown(fd, st.st_uid, st.st_gid)
                _xattrs(source + path, fd)
                os.fchmod(fd, stat.S_IMODE(st.st_mode))
                os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))
            finally:
                os.close(fd)

    def _copy(from_fd: int, to_fd: int, name: str, st: os.stat_result) -> None:
        """One thing that is no directory."""
        if stat.S_ISREG(st.st_mode):
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=to_fd)
            try:
                source = os.open(name, _OPEN, dir_fd=from_fd)
                try:
                    _data(source, fd, st)
                    os.fchown(fd, st.st_uid, st.st_gid)
                    _xattrs(source, fd)
                finally:
                    os.close(source)
                os.fchmod(fd, stat.S_IMODE(st.st_mode))
                os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))
            finally:
                os.close(fd)
            return
        if stat.S_ISLNK(st.st_mode):
            os.symlink(os.readlink(name, dir_fd=from_fd), name, dir_fd=to_fd)
        else:
            os.mknod(name, st.st_mode, st.st_rdev, dir_fd=to_fd)
        os.chown(name, st.st_uid, st.st_gid, dir_fd=to_fd, follow_symlinks=False)
        _xattrs(f"{_PROC}{from_fd}/{name}", f"{_PROC}{to_fd}/{name}")
        if not stat.S_ISLNK(st.st_mode):
            os.chmod(name, stat.S_IMODE(st.st_mode), dir_fd=to_fd)
        os.utime(name, ns=(st.st_atime_ns, st.st_mtime_ns), dir_fd=to_fd, follow_symlinks=False)

    def _data(source: int, target: int, st: os.stat_result) -> None:
        """By reference where the file system can, else by the kernel, else by hand; holes stay holes."""
        if not st.st_size:
            return
        try:
            fcntl.ioctl(target, _FICLONE, source)
            return
        except OSError:
            pass  # no reflinks here: copy
        os.ftruncate(target, st.st_size)
        at = 0
        while at < st.st_size:
            try:
                at = os.lseek(source, at, os.SEEK_DATA)
                end = os.lseek(source, at, os.SEEK_HOLE)
            except OSError as e:
                if e.errno == errno.ENXIO:  # nothing but a hole up to the end
                    return
                raise
            while at < end:
                at += _some(source, target, at, end - at)

    def _some(source: int, target: int, at: int, count: int) -> int:
        try:
            copied = os.copy_file_range(source, target, count, at, at)
        except OSError as e:
            if e.errno not in _NO_COPY_RANGE:
                raise
            copied = os.pwrite(target, os.pread(source, min(count, 1 << 20), at), at)
        if not copied:
            raise OSError(errno.EIO, "copy: file has shrunk")
        return copied

    def _xattrs(source: int | str, target: int | str) -> None:
        follow = isinstance(source, int)
        for key in os.listxattr(source, follow_symlinks=follow):
            value = os.getxattr(source, key, follow_symlinks=follow)
            os.setxattr(target, key, value, follow_symlinks=isinstance(target, int))
