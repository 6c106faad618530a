# SPDX-License-Identifier: Apache-2.0
"""Walking beneath a root that cannot be left, whatever symbolic links, `..` and racing renames are in it.

The root is a directory descriptor. Absolute paths and links mean the root; magic links (/proc/PID/fd/3) are refused.
Everything works on descriptors: look once, then act on what was found (O_PATH), never on the name again.
"""

from __future__ import annotations

import errno
import os
import sys

from wharfie.linux.openat2 import (
    AT_FDCWD,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_NOFOLLOW,
    O_PATH,
    O_WRONLY,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)

IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS


def open_root(path: str) -> int:
    """O_PATH descriptor of a host directory to walk beneath."""
    return openat2(AT_FDCWD, path, O_PATH | O_DIRECTORY)


def open_in_root(root_fd: int, path: str | bytes, flags: int, mode: int = 0, *, symlinks: bool = True) -> int:
    """open(2) of a path as seen with root_fd as `/`. The descriptor is close-on-exec.

    With symlinks=False any symbolic link on the way is ELOOP. With O_NOFOLLOW the last one only.
    Raises: OSError (ELOOP for magic links).
    """
    return openat2(root_fd, path or "/", flags, mode, IN_ROOT if symlinks else IN_ROOT | RESOLVE_NO_SYMLINKS)


def mkdirs_in_root(root_fd: int, path: str, mode: int = 0o755, *, symlinks: bool = True) -> int:
    """Make the directory `path` and its parents where they are missing; O_PATH descriptor of it.

    Links to directories that exist are followed inside the root; a dangling link is made into nothing: its target is
    created beneath the root, as a process in the container would see it. `..` is refused where parts are missing.
    Raises: NotADirectoryError, OSError.
    """
    try:
        return open_in_root(root_fd, path, O_PATH | O_DIRECTORY, symlinks=symlinks)
    except FileNotFoundError:
        pass
    current = os.dup(root_fd)
    walked = ""
    try:
        for part in path.split("/"):
            if part in ("", "."):
                continue
            if part == "..":
                raise OSError(errno.EINVAL, "create directory: path has `..` behind a missing part", path)
            walked = f"{walked}/{part}"
            found = _step(root_fd, current, part, walked, mode, symlinks=symlinks)
            os.close(current)
            current = found
        return current
    except BaseException:
        os.close(current)
        raise


def _step(root_fd: int, parent_fd: int, part: str, walked: str, mode: int, *, symlinks: bool) -> int:
    """One component of mkdirs_in_root: the directory `part` of parent_fd, made if it is missing."""
    for _ in range(8):
        try:
            return openat2(parent_fd, part, O_PATH | O_DIRECTORY, 0, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
        except FileNotFoundError:
            try:
                if sys.platform != "win32":
                    os.mkdir(part, mode, dir_fd=parent_fd)
            except FileExistsError:
                continue
        except OSError as e:
            if e.errno not in (errno.ELOOP, errno.ENOTDIR) or not symlinks:
                raise
            try:
                return open_in_root(root_fd, walked, O_PATH | O_DIRECTORY)
            except FileNotFoundError:
                target = os.readlink(part, dir_fd=parent_fd)
                if not target.startswith("/"):
                    target = f"{os.path.dirname(walked)}/{target}"
                return mkdirs_in_root(root_fd, os.path.normpath(target), mode)
    raise OSError(errno.EAGAIN, "create directory: it keeps changing", walked)


def create_file_in_root(root_fd: int, path: str, mode: int = 0o644, *, dir_mode: int = 0o755) -> int:
    """O_PATH descriptor of the file `path`; an empty one is made, with its parents, where nothing is there.

    What exists is taken as it is, links followed inside the root; a dangling link's target is made (images ship
    /etc/resolv.conf as one). Made for mount points of files.
    """
    for _ in range(16):
        try:
            return open_in_root(root_fd, path, O_PATH)
        except FileNotFoundError:
            pass
        directory, name = os.path.split(path.rstrip("/"))
        parent = mkdirs_in_root(root_fd, directory, dir_mode)
        try:
            try:
                os.close(openat2(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode, IN_ROOT))
            except FileExistsError:
                try:
                    target = os.readlink(name, dir_fd=parent)
                except OSError:
                    continue  # somebody made a file just now
                path = os.path.normpath(target if target.startswith("/") else f"{directory}/{target}")
            else:
                return openat2(parent, name, O_PATH | O_NOFOLLOW, 0, IN_ROOT)
        finally:
            os.close(parent)
    raise OSError(errno.ELOOP, "create file: too many links", path)
