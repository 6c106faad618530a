# SPDX-License-Identifier: Apache-2.0
"""Removing trees that containers have filled, and measuring them: by descriptors, never through a link."""

from __future__ import annotations

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
            _empty(parent, os.path.basename(path))
        finally:
            os.close(parent)


if sys.platform != "win32":
    _DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

    def _empty(parent: int, name: str) -> None:
        """Remove the directory `name` of `parent`: depth first, at most a few descriptors open, moving deep ones up."""
        top = os.open(name, _DIRECTORY, dir_fd=parent)
        serial = 0
        try:
            pending = [""]
            while pending:
                current = pending[-1]
                fd = os.open(current, _DIRECTORY, dir_fd=top) if current else os.dup(top)
                found = []
                try:
                    with os.scandir(fd) as entries:
                        for entry in entries:
                            if entry.is_dir(follow_symlinks=False):
                                found.append(entry.name)
                            else:
                                os.unlink(entry.name, dir_fd=fd)
                    if current:
                        # Directories of directories move up, so that no path gets longer than one name.
                        for i, directory in enumerate(found):
                            try:
                                os.rmdir(directory, dir_fd=fd)
                            except OSError:
                                moved = f".wh-{serial}-{i}"
                                os.rename(directory, moved, src_dir_fd=fd, dst_dir_fd=top)
                                pending.append(moved)
                        serial += 1
                        pending.remove(current)
                        os.rmdir(current, dir_fd=top)
                    elif found:
                        pending += found
                    else:
                        pending.pop()
                finally:
                    os.close(fd)
        finally:
            os.close(top)
        os.rmdir(name, dir_fd=parent)


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
