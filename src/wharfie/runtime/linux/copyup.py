# SPDX-License-Identifier: Apache-2.0
"""Child: `tmpcopyup`, a tmpfs that begins as a copy of the directory it covers."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import os
import stat

from wharfie.fsutil.beneath import open_in_root
from wharfie.linux.openat2 import O_DIRECTORY, O_NOFOLLOW, O_RDONLY, openat2


def copy_up(root_fd: int, path: str, tmpfs_fd: int) -> None:
    """Copy what is at `path` beneath the root into a detached tmpfs: modes, owners, times; no xattrs, no devices."""
    try:
        source = open_in_root(root_fd, path, O_RDONLY | O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    target = openat2(tmpfs_fd, ".", O_RDONLY | O_DIRECTORY)
    try:
        _tree(source, target)
    finally:
        os.close(source)
        os.close(target)


def _tree(source: int, target: int) -> None:
    for name in os.listdir(source):
        st = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(st.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            a = openat2(source, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
            b = openat2(target, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
            _tree(a, b)
            os.close(a)
            os.close(b)
        elif stat.S_ISREG(st.st_mode):
            _file(source, target, name)
        elif stat.S_ISLNK(st.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            continue
        os.chown(name, st.st_uid, st.st_gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(st.st_mode):
            os.chmod(name, stat.S_IMODE(st.st_mode), dir_fd=target)
        os.utime(name, ns=(st.st_atime_ns, st.st_mtime_ns), dir_fd=target, follow_symlinks=False)
    st = os.fstat(source)
    os.fchown(target, st.st_uid, st.st_gid)
    os.fchmod(target, stat.S_IMODE(st.st_mode))


def _file(source: int, target: int, name: str) -> None:
    a = openat2(source, name, O_RDONLY | O_NOFOLLOW)
    b = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
    try:
        while os.sendfile(b, a, None, 1 << 24):
            pass
    finally:
        os.close(a)
        os.close(b)
