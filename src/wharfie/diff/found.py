# SPDX-License-Identifier: Apache-2.0
"""What a walk finds, and which of it counts."""

from __future__ import annotations

import os
import stat

from wharfie.archive.entry import Entry
from wharfie.archive.pack import CHUNK_BYTES


class Found:
    """A path that differs from what is below, or may. `entry` is None for a deleted one.

    `inode` groups hard links, None where there is one link only. `same`: it equals what is below, and counts only if
    something in it does, or another link to it.
    """

    __slots__ = ("entry", "inode", "kind", "path", "same")

    def __init__(
        self, kind: str, path: bytes, entry: Entry | None, *, inode: tuple[int, int] | None = None, same: bool = False
    ) -> None:
        self.kind = kind
        self.path = path
        self.entry = entry
        self.inode = inode
        self.same = same


def settle(found: list[Found]) -> list[Found]:
    """Only what counts, in the same order (parents before what is in them)."""
    inodes = {f.inode for f in found if f.inode is not None and not f.same}
    parents: set[bytes] = set()
    kept = []
    for f in reversed(found):
        if f.same and f.path not in parents and (f.inode is None or f.inode not in inodes):
            continue
        parents.add(f.path.rpartition(b"/")[0])
        kept.append(f)
    kept.reverse()
    return kept


def same_attributes(a: Entry, b: Entry) -> bool:
    """Whether two entries agree in all but their names and data."""
    return (
        (a.kind, a.mode, a.uid, a.gid, a.size) == (b.kind, b.mode, b.uid, b.gid, b.size)
        and (a.link, a.device, a.mtime_s, a.mtime_ns) == (b.link, b.device, b.mtime_s, b.mtime_ns)
        and (a.xattrs or {}) == (b.xattrs or {})
    )


def same_data(a_dir: int, b_dir: int, name: bytes) -> bool:
    """Whether the regular files `name` of two directories hold the same bytes."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    a = os.open(name, flags, dir_fd=a_dir)
    try:
        b = os.open(name, flags, dir_fd=b_dir)
        try:
            if not (stat.S_ISREG(os.fstat(a).st_mode) and stat.S_ISREG(os.fstat(b).st_mode)):
                return False
            while True:
                left, right = os.read(a, CHUNK_BYTES), os.read(b, CHUNK_BYTES)
                if left != right:
                    return False
                if not left:
                    return True
        finally:
            os.close(b)
    finally:
        os.close(a)
