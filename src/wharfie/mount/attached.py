# SPDX-License-Identifier: Apache-2.0
"""Mounts at a path of the host, for everybody who needs one: foreign runtimes, foreign shims, `wharfie export`."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from wharfie.linux import mountapi as k
from wharfie.linux.openat2 import AT_FDCWD, O_NOFOLLOW, O_PATH, openat2
from wharfie.mount import Mount
from wharfie.mount.detached import open_tree


def mount_all(mounts: Sequence[Mount], target: str, *, read_only: bool = False) -> None:
    """Attach the tree of `mounts` at `target`: a directory (made if missing), or a file for a file's bind. All or nothing.

    Raises: OSError, InvalidArgument, Unsupported as open_tree does.
    """
    if not os.path.lexists(target):
        os.makedirs(target, mode=0o711, exist_ok=True)
    tree = open_tree(mounts, read_only=read_only)
    try:
        at = openat2(AT_FDCWD, target, O_PATH | O_NOFOLLOW)
        try:
            k.move_mount(tree, dir_fd=at, obj=target)
        finally:
            os.close(at)
    finally:
        os.close(tree)


def unmount(target: str) -> None:
    """Take away everything mounted at `target`, with what is mounted beneath it. Nothing there is fine."""
    for _ in range(64):
        try:
            k.umount2(target, k.MNT_DETACH | k.UMOUNT_NOFOLLOW)
        except OSError as e:
            if e.errno in (errno.EINVAL, errno.ENOENT):
                return
            raise


def is_mount_point(path: str) -> bool:
    """Whether something is mounted exactly at `path`, by the kernel's table."""
    wanted = os.path.realpath(path)
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            at = line.split(b" ", 5)[4]
            if b"\\" in at:
                at = (
                    at.replace(b"\\040", b" ")
                    .replace(b"\\011", b"\t")
                    .replace(b"\\012", b"\n")
                    .replace(b"\\134", b"\\")
                )
            if os.fsdecode(at) == wanted:
                return True
    return False
