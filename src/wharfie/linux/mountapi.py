# SPDX-License-Identifier: Apache-2.0
"""The mount API by descriptors (5.2 and later), and mount(2), umount2(2), pivot_root(2)."""

from __future__ import annotations

import os
import struct

from wharfie.linux.libc import path_bytes, syscall
from wharfie.linux.openat2 import AT_EMPTY_PATH, AT_FDCWD

# linux/mount.h
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = 0o2000000
AT_RECURSIVE = 0x8000
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000
MS_RDONLY = 1
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8


def open_tree(path: str | bytes, flags: int = OPEN_TREE_CLONE, *, dir_fd: int = AT_FDCWD) -> int:
    """O_PATH descriptor of a mount; with OPEN_TREE_CLONE (and AT_RECURSIVE) of a detached copy. "" means dir_fd itself."""
    if not path:
        flags |= AT_EMPTY_PATH
    return syscall("open_tree", dir_fd, path_bytes(path), flags | OPEN_TREE_CLOEXEC, obj=path or f"fd {dir_fd}")


def move_mount(from_fd: int, path: str | bytes = "", *, dir_fd: int = AT_FDCWD, obj: str = "") -> None:
    """Attach the mount of from_fd at path, or at dir_fd itself where path is empty."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if path else MOVE_MOUNT_T_EMPTY_PATH)
    syscall("move_mount", from_fd, b"", dir_fd, path_bytes(path), flags, obj=obj or path or f"fd {dir_fd}")


def fsopen(fs_type: str) -> int:
    return syscall("fsopen", fs_type.encode(), FSOPEN_CLOEXEC, obj=fs_type)


def _context_error(fs_fd: int, e: OSError) -> OSError:
    """The error with what the file system wrote into its context's log."""
    lines: list[str] = []
    try:
        while len(lines) < 8:
            lines.append(os.read(fs_fd, 512).decode(errors="replace").strip())
    except OSError:
        pass  # ENODATA: the log is empty
    if lines:
        return OSError(e.errno, f"{e.strerror} ({'; '.join(lines)})", e.filename)
    return e


def fsconfig_string(fs_fd: int, key: str, value: str | bytes) -> None:
    try:
        syscall("fsconfig", fs_fd, FSCONFIG_SET_STRING, key.encode(), path_bytes(value), 0, obj=f"{key}={value!s}")
    except OSError as e:
        raise _context_error(fs_fd, e) from None


def fsconfig_flag(fs_fd: int, key: str) -> None:
    try:
        syscall("fsconfig", fs_fd, FSCONFIG_SET_FLAG, key.encode(), None, 0, obj=key)
    except OSError as e:
        raise _context_error(fs_fd, e) from None


def fsconfig_fd(fs_fd: int, key: str, fd: int) -> None:
    try:
        syscall("fsconfig", fs_fd, FSCONFIG_SET_FD, key.encode(), None, fd, obj=key)
    except OSError as e:
        raise _context_error(fs_fd, e) from None


def fsconfig_create(fs_fd: int, obj: str = "") -> None:
    try:
        syscall("fsconfig", fs_fd, FSCONFIG_CMD_CREATE, None, None, 0, obj=obj)
    except OSError as e:
        raise _context_error(fs_fd, e) from None


def fsmount(fs_fd: int, attributes: int = 0, obj: str = "") -> int:
    """Detached mount of a created context."""
    return syscall("fsmount", fs_fd, FSMOUNT_CLOEXEC, attributes, obj=obj)


def mount_setattr(
    fd: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
    obj: str = "",
) -> None:
    """Change the mount that fd stands on (its root)."""
    attr = struct.pack("QQQQ", attr_set, attr_clr, propagation, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall("mount_setattr", fd, b"", flags, attr, len(attr), obj=obj or f"fd {fd}")


def new_mount(fs_type: str, options: list[str] | tuple[str, ...] = (), *, source: str = "", attributes: int = 0) -> int:
    """fsopen, options (`key=value` or flags), create, fsmount: a detached mount."""
    fs_fd = fsopen(fs_type)
    try:
        if source:
            fsconfig_string(fs_fd, "source", source)
        for option in options:
            key, equals, value = option.partition("=")
            if equals:
                fsconfig_string(fs_fd, key, value)
            else:
                fsconfig_flag(fs_fd, key)
        fsconfig_create(fs_fd, fs_type)
        return fsmount(fs_fd, attributes, fs_type)
    finally:
        os.close(fs_fd)


def mount(source: str, target: str | bytes, fs_type: str, flags: int, data: str = "") -> None:
    syscall(
        "mount",
        path_bytes(source),
        path_bytes(target),
        fs_type.encode() or None,
        flags,
        data.encode() or None,
        obj=target,
    )


def umount2(target: str | bytes, flags: int = 0) -> None:
    syscall("umount2", path_bytes(target), flags, obj=target)


def pivot_root(new_root: str, put_old: str) -> None:
    syscall("pivot_root", path_bytes(new_root), path_bytes(put_old), obj=new_root)
