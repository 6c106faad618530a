# SPDX-License-Identifier: Apache-2.0
"""The one pass from a compressed layer to an EROFS file: inflate | scan and place | hash and write, in three threads."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Iterator

from wharfie.archive.entry import Entry
from wharfie.archive.pipeline import Ahead, Behind, Segments, collector_paused
from wharfie.archive.scan import Scanner
from wharfie.errdefs import ResourceExhausted
from wharfie.snapshots.erofs.image import BLOCK_BITS, BLOCK_BYTES, HOLE, write_metadata
from wharfie.snapshots.tree import Node, Tree

_ZEROS = memoryview(bytes(1 << 16))
_MAX_CHUNKS = 1 << 20
_MAX_CHUNK_BITS = 19
_MAX_SPARSE_PADDING = 1 << 30


def build(chunks: Iterator[bytes], digest: str, fd: int) -> Tree:
    """Write the layer whose tar is `chunks` into the empty file `fd`; flushed to disk on return.

    Raises: DataLoss (malformed, refused, or the tar's digest is not `digest`), ResourceExhausted, OSError. The file is
    then of no use.
    """
    tree = Tree()
    with collector_paused(), Ahead(chunks) as ahead, Behind(digest, fd) as behind:
        segments: Segments = [_ZEROS[:BLOCK_BYTES]]

        def tee() -> Iterator[bytes]:
            for chunk in ahead:
                yield chunk
                # `segments` is emptied, not replaced: the scanner may be in the middle of handing data to it.
                behind.put(chunk, segments[:])
                segments.clear()

        scanner = Scanner(tee())
        data_bytes = place(scanner, tree, segments.append)
        uuid = bytes.fromhex(digest.partition(":")[2][:32])
        behind.put(None, segments)
        head = write_metadata(tree, data_bytes, uuid, lambda data: behind.put(None, [data]))
        behind.finish()
    if sys.platform != "win32":
        os.pwrite(fd, head, 0)
    os.fsync(fd)
    return tree


def place(scanner: Scanner, tree: Tree, append: Callable[[memoryview], object]) -> int:
    """Grow `tree` and give each file's data a place of its own, on a block. Returns where the data ends, head included."""
    at = BLOCK_BYTES
    add, data = tree.add, scanner.data
    for entry in scanner:
        node = add(entry)
        if node is None:
            continue
        if entry.extents is not None:
            at = _place_sparse(scanner, entry, node, append, at)
            continue
        node.start = at >> BLOCK_BITS
        data(append)
        size = entry.size
        pad = -size & BLOCK_BYTES - 1
        if pad:
            append(_ZEROS[:pad])
        at += size + pad
    return at


def _place_sparse(scanner: Scanner, entry: Entry, node: Node, append: Callable[[memoryview], object], at: int) -> int:
    """Place a sparse file as chunks; the rest of a chunk that has any data is zeros on disk."""
    extents = entry.extents or ()
    bits = _chunk_bits(extents, entry.size)
    chunk_bytes = BLOCK_BYTES << bits
    if len(extents) * 2 * chunk_bytes > _MAX_SPARSE_PADDING + 8 * entry.stored:
        raise ResourceExhausted(f"read layer: {entry.path!r}: sparse map is too fine for a file of {entry.size} bytes")
    table = [HOLE] * -(-entry.size // chunk_bytes)
    gaps = []  # zeros before each extent
    written = 0  # the file's offset behind the last data
    for offset, length in extents:
        first = offset // chunk_bytes
        if first * chunk_bytes < written:  # in the chunk that the last extent ended in
            gaps.append(offset - written)
        else:
            gaps.append(-written % chunk_bytes + offset % chunk_bytes)
        at += gaps[-1]
        base = at - offset
        for index in range(first, -(-(offset + length) // chunk_bytes)):
            if table[index] == HOLE:
                table[index] = base + index * chunk_bytes >> BLOCK_BITS
        at += length
        written = offset + length
    _spread(scanner, [length for _, length in extents], gaps, append)
    tail = -written % chunk_bytes
    _zeros(append, tail)
    node.chunks = (bits, struct.pack(f"<{len(table)}I", *table))
    return at + tail


def _chunk_bits(extents: tuple[tuple[int, int], ...], size: int) -> int:
    """log2 of blocks per chunk: the largest power of two that divides every border, and at most _MAX_CHUNKS of them."""
    borders = size // BLOCK_BYTES or 1
    for offset, length in extents:
        borders |= offset // BLOCK_BYTES | -(-(offset + length) // BLOCK_BYTES)
    exact = (borders & -borders).bit_length() - 1
    few = (-(-size // BLOCK_BYTES) // _MAX_CHUNKS).bit_length()
    bits = max(exact, few)
    if bits > _MAX_CHUNK_BITS:
        raise ResourceExhausted(f"read layer: sparse file of {size} bytes")
    return bits


def _spread(scanner: Scanner, lengths: list[int], gaps: list[int], append: Callable[[memoryview], object]) -> None:
    """Hand over the stored bytes with zeros before each extent."""
    todo = iter(zip(lengths, gaps, strict=True))
    left = 0

    def take(view: memoryview) -> None:
        nonlocal left
        while view:
            if not left:
                left, gap = next(todo)
                _zeros(append, gap)
            piece = view[:left]
            append(piece)
            left -= len(piece)
            view = view[len(piece) :]

    scanner.data(take)


def _zeros(append: Callable[[memoryview], object], count: int) -> None:
    while count > 0:
        piece = _ZEROS[:count]
        append(piece)
        count -= len(piece)
