# SPDX-License-Identifier: Apache-2.0
"""Removing trees that containers have filled, and measuring them: by descriptors, never through a link."""

from __future__ import annotations

import errno
import os
import sys

from wharfie.snapshots import Usage


def remove_tree(path: str) -> None:
    """Remove a file or directory and all below. What is not there is fine. Deep trees are no recursion."""
    try:
        os.unlink(path)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        pass
    if sys.platform == "win32":
        import shutil

        shutil.rmtree(path)
    else:
        parent = os.open(os.path.dirname(path) or ".", _DIRECTORY)
        try:
            empty_below(parent, os.path.basename(path))
        finally:
            os.close(parent)


if sys.platform != "win32":
    _DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

    def empty_below(parent: int, name: str | bytes) -> None:
        """Remove the directory `name` of `parent` and all below, however deep: with two descriptors, up by `..`."""
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        above: list[tuple[str, tuple[int, int]]] = []
        pending = [_unlink_files(fd)]
        try:
            while True:
                if pending[-1]:
                    child = pending[-1].pop()
                    st = os.fstat(fd)
                    below = os.open(child, _DIRECTORY, dir_fd=fd)
                    os.close(fd)
                    fd = below
                    above.append((child, (st.st_dev, st.st_ino)))
                    pending.append(_unlink_files(fd))
                    continue
                pending.pop()
                if not above:
                    break
                child, identity = above.pop()
                up = os.open("..", _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = up
                st = os.fstat(fd)
                if (st.st_dev, st.st_ino) != identity:
                    raise OSError(errno.EAGAIN, "remove tree: somebody moves directories in it", name)
                os.rmdir(child, dir_fd=fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent)

    def _unlink_files(fd: int) -> list[str]:
        """Unlink what is no directory, and empty directories; names of the others."""
        found = []
        with os.scandir(fd) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=fd)
                elif not _removed(entry.name, fd):
                    found.append(entry.name)
        return found

    def _removed(name: str, fd: int) -> bool:
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError as e:
            if e.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        return True


def measure(path: str) -> Usage:
    """Blocks and inodes of a tree, hard links counted once. What vanishes meanwhile is not counted."""
    seen: set[tuple[int, int]] = set()
    size = inodes = 0
    pending = [path]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    try:
                        st = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if st.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                        if (st.st_dev, st.st_ino) in seen:
                            continue
                        seen.add((st.st_dev, st.st_ino))
                    size += getattr(st, "st_blocks", 0) * 512
                    inodes += 1
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return Usage(size, inodes)
