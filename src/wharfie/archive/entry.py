# SPDX-License-Identifier: Apache-2.0
"""The Entry value: one member of a tar, or one to be."""

from __future__ import annotations

HARDLINK = 0
FIFO, CHAR, DIRECTORY, BLOCK, REGULAR, SYMLINK = 0o010000, 0o020000, 0o040000, 0o060000, 0o100000, 0o120000
"""Values of `kind`: S_IFMT's, as a literal because Windows lacks some; HARDLINK is not a file type."""


class Entry:
    """A member of an archive.

    Shapes: `parent` is the normalised directory ("" for the root, else "a/b"), `name` the last component; both are
            empty for the root itself. `link` is a symlink's text as it stands, or a hard link's normalised path.
    Units:  `size` and `stored` in bytes; they differ for sparse files only, whose `extents` are (offset, length) of
            the data in the archive. `mtime_s` may be negative; `mtime_ns` is 0..999999999.
    """

    __slots__ = (
        "device", "extents", "gid", "kind", "link", "mode", "mtime_ns", "mtime_s", "name", "parent", "size", "stored",
        "uid", "xattrs",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 - one made per file of an image: keywords cost a third more
        self,
        parent: bytes,
        name: bytes,
        kind: int,
        mode: int,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime_s: int = 0,
        mtime_ns: int = 0,
        link: bytes = b"",
        device: tuple[int, int] = (0, 0),
        xattrs: dict[bytes, bytes] | None = None,
        extents: tuple[tuple[int, int], ...] | None = None,
    ) -> None:
        self.parent = parent
        self.name = name
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.stored = size
        self.mtime_s = mtime_s
        self.mtime_ns = mtime_ns
        self.link = link
        self.device = device
        self.xattrs = xattrs
        self.extents = extents

    @property
    def path(self) -> bytes:
        """`parent` and `name` joined; "" for the root."""
        return self.parent + b"/" + self.name if self.parent else self.name

    def __repr__(self) -> str:
        return f"<Entry {self.path!r} {self.kind | self.mode:o} {self.uid}:{self.gid} {self.size}>"
