# SPDX-License-Identifier: Apache-2.0
"""openat2(2): opening with rules for the walk. Constants are Linux's own, so that this imports anywhere."""

from __future__ import annotations

import struct

from wharfie.linux.libc import path_bytes, syscall

# fcntl.h
O_RDONLY, O_WRONLY, O_RDWR = 0, 1, 2
O_CREAT, O_EXCL, O_NOCTTY, O_TRUNC, O_APPEND, O_NONBLOCK = 0o100, 0o200, 0o400, 0o1000, 0o2000, 0o4000
O_CLOEXEC = 0o2000000
O_PATH = 0o10000000
O_DIRECTORY, O_NOFOLLOW = (0o200000, 0o400000)
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
# linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10


def _arm_flags() -> None:
    """O_DIRECTORY and O_NOFOLLOW have other values on arm64."""
    global O_DIRECTORY, O_NOFOLLOW
    from wharfie.linux import libc

    if libc.MACHINE == "aarch64":
        O_DIRECTORY, O_NOFOLLOW = 0o40000, 0o100000


_arm_flags()


def openat2(dir_fd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open `path` at dir_fd. O_CLOEXEC is always set. EAGAIN (a rename raced with `..`) is tried again."""
    how = struct.pack("QQQ", flags | O_CLOEXEC, mode, resolve)
    raw = path_bytes(path)
    for _ in range(128):
        try:
            return syscall("openat2", dir_fd, raw, how, len(how), obj=path)
        except BlockingIOError:
            continue
    return syscall("openat2", dir_fd, raw, how, len(how), obj=path)
