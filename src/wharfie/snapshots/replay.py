# SPDX-License-Identifier: Apache-2.0
"""A layer as it lies on disk, read back as the entries that it was made from.

For the rare layer that puts files below a path which is a symbolic link further down (`lib/x` where an earlier layer
has `lib -> usr/lib`): only on top of its parent is it known where they go, so it is applied again there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence

from wharfie.archive.entry import CHAR, DIRECTORY, HARDLINK, REGULAR, Entry
from wharfie.archive.layer import OPAQUE_MARKER, OPAQUE_XATTR, WHITEOUT_PREFIX
from wharfie.mount import Mount
from wharfie.snapshots.layers import Learnt

if sys.platform != "win32":
    from wharfie.archive.pack import describe, open_directory, read
    from wharfie.linux.sync import syncfs
    from wharfie.mount.detached import open_tree
    from wharfie.snapshots.overlay.extract import Extractor

    def apply(layer: str, learnt: Learnt, mounts: Sequence[Mount]) -> None:
        """Apply the layer that `layer` shows by itself to the writable tree of `mounts`; flushed."""
        implicit = set(map(os.fsencode, learnt.implicit))
        if learnt.root is None:
            implicit.add(b"")
        replay = Replay(layer, implicit)
        tree = open_tree(mounts)
        try:
            fd = os.open(f"/proc/self/fd/{tree}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                Extractor(fd, overlay=False).delete(replay)
                Extractor(fd, overlay=False).run(replay)
                syncfs(fd)
            finally:
                os.close(fd)
        finally:
            os.close(tree)

    class Replay:
        """Stands where a `Scanner` stands. `root` is the layer by itself, `implicit` what it does not describe ("" too)."""

        def __init__(self, root: str, implicit: set[bytes]) -> None:
            self._root = root
            self._implicit = implicit
            self._file: tuple[int, bytes] | None = None

        def data(self, take: Callable[[memoryview], object]) -> None:
            """The bytes of the last entry."""
            if self._file is not None:
                dir_fd, name = self._file
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
                try:
                    for chunk in read(fd):
                        take(memoryview(chunk))
                finally:
                    os.close(fd)

        def __iter__(self) -> Iterator[Entry]:
            links: dict[int, bytes] = {}
            pending = [b""]
            while pending:
                path = pending.pop()
                fd = open_directory(os.path.join(os.fsencode(self._root), path or b"."))
                try:
                    yield from self._directory(fd, path)
                    for name in sorted(map(os.fsencode, os.listdir(fd))):
                        entry = describe(fd, name, path)
                        assert entry is not None
                        if entry.kind == DIRECTORY:
                            pending.append(entry.path)
                            continue
                        if entry.kind == CHAR and entry.device == (0, 0):
                            yield Entry(path, WHITEOUT_PREFIX + name, REGULAR, 0)
                            continue
                        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
                        if st.st_nlink > 1:
                            known = links.setdefault(st.st_ino, entry.path)
                            if known != entry.path:
                                entry.kind, entry.link, entry.xattrs = HARDLINK, known, None
                        self._file = (fd, name)
                        yield entry
                        self._file = None
                finally:
                    os.close(fd)

        def _directory(self, fd: int, path: bytes) -> Iterator[Entry]:
            if path not in self._implicit:
                parent, _, name = path.rpartition(b"/")
                entry = describe(fd, b".", parent)
                assert entry is not None
                entry.name = name
                yield entry
            if OPAQUE_XATTR in os.listxattr(fd):
                yield Entry(path, OPAQUE_MARKER, REGULAR, 0)
