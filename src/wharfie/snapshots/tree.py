# SPDX-License-Identifier: Apache-2.0
"""The tree of one layer, grown entry by entry with the rules of extraction, and no file system.

Last entry of a path wins; a directory over a directory only changes its attributes; missing parents are made and
remembered as implicit; symbolic links on the way are followed inside the layer, as an extractor that is confined to
its root would.
"""

from __future__ import annotations

from wharfie.archive import layer
from wharfie.archive.entry import CHAR, DIRECTORY, HARDLINK, REGULAR, SYMLINK, Entry
from wharfie.errdefs import DataLoss, ResourceExhausted

MAX_NODES = 4_000_000
"""Inodes of one layer, implicit ones too: some 300 bytes of memory each."""
_MAX_LINKS = 40
_MAX_PLAIN_ID = 65535


class Node:
    """An inode. `start` is the block of its data. `children` is None for all but directories."""

    __slots__ = (
        "children", "chunks", "explicit", "gid", "kind", "link", "mode", "mtime_ns", "mtime_s", "nid", "nlink",
        "opaque", "rdev", "size", "start", "uid", "xattrs",
    )  # fmt: skip

    def __init__(self, kind: int, mode: int) -> None:
        self.kind = kind
        self.mode = mode
        self.uid = self.gid = self.size = self.mtime_s = self.mtime_ns = 0
        self.start = self.rdev = self.nid = self.nlink = 0
        self.link = b""
        self.xattrs: dict[bytes, bytes] | None = None
        self.children: dict[bytes, Node] | None = {} if kind == DIRECTORY else None
        self.chunks: tuple[int, bytes] | None = None
        self.explicit = False
        self.opaque = False

    def describe(self, entry: Entry) -> None:
        """Take the attributes of an entry."""
        self.mode = entry.mode
        self.uid = entry.uid
        self.gid = entry.gid
        self.mtime_s = entry.mtime_s
        self.mtime_ns = entry.mtime_ns
        self.xattrs = entry.xattrs
        self.explicit = True


class Tree:
    """A layer's inodes. `extra_ids`: owners above 65535. `whiteout` is the one inode of all whiteouts."""

    def __init__(self) -> None:
        self.root = Node(DIRECTORY, 0o755)
        self.whiteout = Node(CHAR, 0)
        self.extra_ids: set[int] = set()
        self.nodes = 1
        self._dirs: dict[bytes, dict[bytes, Node]] = {}

    def add(self, entry: Entry) -> Node | None:
        """Put `entry` in. Returns the inode that wants the entry's data, None where there is none.

        Raises: DataLoss (reserved names, links to nothing, a file as a parent), ResourceExhausted (too many inodes).
        """
        kind = entry.kind
        children = self._dirs.get(entry.parent)
        if children is None:
            children = self._directory(entry.parent)
        name = entry.name
        if name[:4] == b".wh." and self._whiteout(entry, children):
            return None
        if entry.xattrs or kind in {CHAR, 0o060000}:
            layer.check(entry)
        if entry.uid > _MAX_PLAIN_ID or entry.gid > _MAX_PLAIN_ID:
            self.extra_ids.update(i for i in (entry.uid, entry.gid) if i > _MAX_PLAIN_ID)
        old = children.get(name) if name else self.root
        if kind == DIRECTORY:
            if old is None or old.children is None:
                opaque = old is self.whiteout
                if old is not None and old.kind == SYMLINK:
                    self._dirs.clear()
                old = children[name] = self._new(kind)
                old.opaque = opaque
            old.describe(entry)
            return None
        if old is not None and (old.children is not None or old.kind == SYMLINK):
            self._dirs.clear()
        if kind == HARDLINK:
            target = self._target(entry)
            if target is not old:
                children[name] = target
            return None
        node = children[name] = self._new(kind)
        node.describe(entry)
        if kind == REGULAR:
            node.size = entry.size
            return node if entry.size else None
        if kind == SYMLINK:
            node.link = entry.link
            node.size = len(entry.link)
        else:
            major, minor = entry.device
            node.rdev = (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
        return None

    def implicit_directories(self) -> list[bytes]:
        """Paths of directories that no entry describes and that show what is below, parents first; never the root."""
        found = []
        todo = [(b"", self.root)]
        while todo:
            path, node = todo.pop()
            for name, child in (node.children or {}).items():
                if child.children is not None and not child.opaque:
                    below = path + b"/" + name if path else name
                    if not child.explicit:
                        found.append(below)
                    todo.append((below, child))
        return sorted(found)

    def _new(self, kind: int) -> Node:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise ResourceExhausted(f"read layer: more than {MAX_NODES} files")
        return Node(kind, 0o755)

    def _whiteout(self, entry: Entry, children: dict[bytes, Node]) -> bool:
        what, name = layer.whiteout(entry)
        if what == layer.CLEARS:
            self._node(entry.parent).opaque = True
        elif what == layer.DELETES:
            there = children.setdefault(name, self.whiteout)
            if there.children is not None:
                # Deleted below and made again in this layer, in whatever order they stand.
                there.opaque = True
        return bool(what)

    def _directory(self, path: bytes) -> dict[bytes, Node]:
        children = self._node(path).children
        assert children is not None
        if len(self._dirs) > 100_000:
            self._dirs.clear()
        self._dirs[path] = children
        return children

    def _node(self, path: bytes) -> Node:
        """The directory `path`, made with its parents where it is missing."""
        current = self.root
        stack = [current]
        parts = path.split(b"/")[::-1] if path else []
        links = 0
        while parts:
            part = parts.pop()
            if part in {b"", b"."}:
                continue
            if part == b"..":  # of a symbolic link: paths of entries have none
                if len(stack) > 1:
                    stack.pop()
                current = stack[-1]
                continue
            assert current.children is not None
            child = current.children.get(part)
            if child is None or child is self.whiteout:
                made = current.children[part] = self._new(DIRECTORY)
                made.opaque = child is not None
                child = made
            elif child.kind == SYMLINK:
                links += 1
                if links > _MAX_LINKS:
                    raise DataLoss(f"read layer: {path[:200]!r}: too many symbolic links")
                if child.link.startswith(b"/"):
                    stack, current = [self.root], self.root
                parts += child.link.split(b"/")[::-1]
                continue
            elif child.children is None:
                raise DataLoss(f"read layer: {path[:200]!r}: a parent is no directory")
            current = child
            stack.append(child)
        return current

    def _target(self, entry: Entry) -> Node:
        parent, _, name = entry.link.rpartition(b"/")
        target = self._find(parent, name)
        if target is None or target is self.whiteout:
            raise DataLoss(f"read layer: {entry.path!r}: hard link to {entry.link[:200]!r}, which is not in this layer")
        if target.children is not None:
            raise DataLoss(f"read layer: {entry.path!r}: hard link to a directory")
        return target

    def _find(self, parent: bytes, name: bytes) -> Node | None:
        children = self._dirs.get(parent)
        if children is None:
            before = self.nodes
            children = self._directory(parent)
            if self.nodes != before:
                return None
        return children.get(name)
