# SPDX-License-Identifier: Apache-2.0
"""Inodes and directories of an EROFS image, laid out and written behind the data.

Spec: Linux fs/erofs/erofs_fs.h. Two passes over the tree: the first gives each inode its number (nid * 32 bytes from
the start of the metadata), the second writes. Rules of the kernel that shape it: nid 0 would be d_ino 0; the root's nid
has 16 bits; an inline tail may not cross a block border; directory names are sorted bytewise over the whole directory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from wharfie.archive.entry import BLOCK, CHAR, DIRECTORY, FIFO, REGULAR, SYMLINK
from wharfie.errdefs import DataLoss
from wharfie.snapshots.tree import Node, Tree

BLOCK_BYTES = 4096
BLOCK_BITS = 12
SUPERBLOCK_AT = 1024
MAGIC = 0xE0F5E1E2
ROOT_NID = 2
COMPAT_MTIME = 2
INCOMPAT_CHUNKED_FILE = 4
FLAT_PLAIN, FLAT_INLINE, CHUNK_BASED = 1, 5, 9  # extended inode form, layout in bits 1..3
HOLE = 0xFFFFFFFF

# magic crc compat blkszbits extslots root_nid inos epoch nsec blocks meta_blkaddr xattr_blkaddr uuid name incompat
# available_compr extra_devices devt_slotoff dirblkbits xattr_prefix_count prefix_start packed_nid
SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24x")
# format xattr_icount mode reserved size i_u ino uid gid mtime nsec nlink
INODE = struct.Struct("<HHHHQIIIIqII16x")
_DIRENT_BYTES = 12
_FTYPE = {REGULAR: 1, DIRECTORY: 2, CHAR: 3, BLOCK: 4, FIFO: 5, SYMLINK: 7}
_XATTR_NAMES = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6))
_XATTR_ACL = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_MAX_XATTR_BYTES = 4 * 65534

Names = list["tuple[bytes, Node]"]


class Layout:
    """Numbers of a tree's inodes, and sizes. `inodes` are in the order of their numbers."""

    def __init__(self, tree: Tree) -> None:
        self.inodes: list[tuple[Node, Node, bytes, Names]] = []
        """(inode, parent of a directory, encoded xattrs, sorted children with `.` and `..` of a directory)"""
        self.meta_bytes = ROOT_NID * 32
        self.dir_blocks = 0
        self.chunked = False
        self._whiteout = tree.whiteout
        self._place(tree.root, tree.root)
        at = 0
        while at < len(self.inodes):  # grows while it is walked: breadth first, children of a directory side by side
            node, _, _, names = self.inodes[at]
            at += 1
            for name, child in names:
                if child.nid:
                    if child.children is None:
                        child.nlink += 1
                elif name not in _DOTS:
                    self._place(child, node)

    def _place(self, node: Node, parent: Node) -> None:
        names: Names = []
        tail = 0
        own = node.xattrs
        if node.children is not None:
            names, opaque, whiteouts = self._names(node, parent)
            tail = node.size = _directory_bytes(names)
            if tail > BLOCK_BYTES:
                self.dir_blocks += -(-tail // BLOCK_BYTES)
                tail = 0
            if opaque:
                own = {**(own or {}), b"trusted.overlay.opaque": b"y"}
            elif whiteouts:
                # Else overlayfs lists whiteouts raw where no lower layer has this directory (as mkfs.erofs does).
                own = {**(own or {}), b"trusted.overlay.origin": b""}
            node.nlink = 2 + sum(child.children is not None for child in node.children.values())
        else:
            node.nlink = 1
            if node.kind == SYMLINK:
                tail = node.size
        xattrs = _encode_xattrs(own) if own else b""
        at = self.meta_bytes + 31 & ~31
        head = INODE.size + len(xattrs)
        if node.chunks is not None:
            tail_bytes = len(node.chunks[1])
            self.chunked = True
        elif head + tail > BLOCK_BYTES or not tail:
            if tail:
                self.dir_blocks += 1
            tail_bytes = 0
        else:
            if (at + head) // BLOCK_BYTES != (at + head + tail - 1) // BLOCK_BYTES:
                at = at + BLOCK_BYTES - 1 & -BLOCK_BYTES
            tail_bytes = tail
        node.nid = at >> 5
        self.meta_bytes = at + head + tail_bytes
        self.inodes.append((node, parent, xattrs, names))

    def _names(self, node: Node, parent: Node) -> tuple[Names, bool, bool]:
        children = node.children or {}
        whiteouts = False
        names: Names = [(b".", node), (b"..", parent)]
        for item in children.items():
            if item[1] is self._whiteout:
                if node.opaque:
                    continue
                whiteouts = True
            names.append(item)
        names.sort(key=_first)
        return names, node.opaque, whiteouts


_DOTS = frozenset((b".", b".."))


def _first(item: tuple[bytes, Node]) -> bytes:
    return item[0]


def _directory_bytes(names: Names) -> int:
    total = _DIRENT_BYTES * len(names) + sum(map(len, map(_first, names)))
    if total <= BLOCK_BYTES:
        return total
    blocks = _split(names)
    last = blocks[-1]
    return (len(blocks) - 1) * BLOCK_BYTES + _DIRENT_BYTES * len(last) + sum(len(name) for name, _ in last)


def _split(names: Names) -> list[Names]:
    """Names by directory block."""
    blocks: list[Names] = []
    current: Names = []
    room = BLOCK_BYTES
    for item in names:
        need = _DIRENT_BYTES + len(item[0])
        if need > room:
            blocks.append(current)
            current = []
            room = BLOCK_BYTES
        current.append(item)
        room -= need
    blocks.append(current)
    return blocks


_structs: dict[int, struct.Struct] = {}


def _directory_block(names: Names) -> bytes:
    n = len(names)
    form = _structs.get(n)
    if form is None:
        form = _structs[n] = struct.Struct("<" + "QHBx" * n)
    flat: list[int] = []
    extend = flat.extend
    at = n * _DIRENT_BYTES
    for name, child in names:
        extend((child.nid, at, _FTYPE[child.kind]))
        at += len(name)
    return form.pack(*flat) + b"".join([name for name, _ in names])


def _encode_xattrs(xattrs: dict[bytes, bytes]) -> bytes:
    """The inline xattr body. Namespaces that Linux does not have (an archive of another system) are left out."""
    parts = [bytes(12)]
    for key in sorted(xattrs):
        value = xattrs[key]
        index = _XATTR_ACL.get(key, 0)
        name = b""
        if not index:
            for prefix, number in _XATTR_NAMES:
                if key.startswith(prefix) and len(key) > len(prefix):
                    index, name = number, key[len(prefix) :]
                    break
            else:
                continue
        if len(value) > 65535:
            raise DataLoss(f"read layer: extended attribute {key!r} of {len(value)} bytes")
        body = struct.pack("<BBH", len(name), index, len(value)) + name + value
        parts.append(body + bytes(-len(body) & 3))
    if len(parts) == 1:
        return b""
    encoded = b"".join(parts)
    if len(encoded) > _MAX_XATTR_BYTES:
        raise DataLoss(f"read layer: extended attributes of {len(encoded)} bytes on one file")
    return encoded


def write_metadata(tree: Tree, data_bytes: int, uuid: bytes, put: Callable[[bytes], object]) -> bytes:
    """Write inodes and directories through `put`, to stand at `data_bytes` (a multiple of the block size).

    Returns the first block of the image, with the superblock, to be written over the one at offset 0.
    """
    layout = Layout(tree)
    meta_block = data_bytes >> BLOCK_BITS
    table_blocks = -(-layout.meta_bytes // BLOCK_BYTES)
    dir_block = meta_block + table_blocks
    if dir_block + layout.dir_blocks >= HOLE:
        raise DataLoss("write layer: image of more than 16 TiB")
    pack = INODE.pack
    pieces: list[bytes] = [bytes(ROOT_NID * 32)]
    blocks: list[bytes] = []
    add = pieces.append
    at = ROOT_NID * 32
    for serial, (node, _, xattrs, names) in enumerate(layout.inodes, 1):
        want = node.nid << 5
        if want != at:
            add(bytes(want - at))
        form, unit, tail = FLAT_PLAIN, node.start, b""
        kind = node.kind
        if kind == REGULAR:
            if node.chunks is not None:
                form = CHUNK_BASED
                unit, tail = node.chunks
        elif kind == DIRECTORY:
            if node.size <= BLOCK_BYTES - INODE.size - len(xattrs):
                form, unit, tail = FLAT_INLINE, 0, _directory_block(names)
            else:
                unit = dir_block + len(blocks)
                blocks += [_padded(_directory_block(part)) for part in _split(names)]
        elif kind == SYMLINK:
            if node.size <= BLOCK_BYTES - INODE.size - len(xattrs):
                form, unit, tail = FLAT_INLINE, 0, node.link
            else:
                unit = dir_block + len(blocks)
                blocks.append(_padded(node.link))
        else:
            unit = node.rdev
        icount = 1 + (len(xattrs) - 12 >> 2) if xattrs else 0
        add(
            pack(
                form, icount, kind | node.mode, 0, node.size, unit, serial, node.uid, node.gid, node.mtime_s,
                node.mtime_ns, node.nlink,
            )
        )  # fmt: skip
        if xattrs:
            add(xattrs)
        if tail:
            add(tail)
        at = want + INODE.size + len(xattrs) + len(tail)
        if len(pieces) > 4096:
            put(b"".join(pieces))
            pieces.clear()
    add(bytes(-at & BLOCK_BYTES - 1))
    put(b"".join(pieces))
    for start in range(0, len(blocks), 256):
        put(b"".join(blocks[start : start + 256]))
    superblock = SUPERBLOCK.pack(
        MAGIC, 0, COMPAT_MTIME, BLOCK_BITS, 0, ROOT_NID, len(layout.inodes), 0, 0, dir_block + len(blocks), meta_block,
        0, uuid, b"", INCOMPAT_CHUNKED_FILE if layout.chunked else 0, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip
    return _padded(bytes(SUPERBLOCK_AT) + superblock)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) & BLOCK_BYTES - 1)
