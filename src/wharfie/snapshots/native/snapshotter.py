# SPDX-License-Identifier: Apache-2.0
"""`snapshots.Snapshotter` that copies."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from wharfie.archive.compression import OUTPUT_BYTES
from wharfie.archive.entry import REGULAR
from wharfie.archive.pipeline import Ahead, Behind, collector_paused
from wharfie.archive.scan import Scanner
from wharfie.errdefs import AlreadyExists, Conflict, FailedPrecondition, InvalidArgument, NotFound, Unsupported
from wharfie.linux.sync import syncfs
from wharfie.mount import Mount
from wharfie.snapshots import KIND_ACTIVE, KIND_COMMITTED, KIND_VIEW, Usage
from wharfie.snapshots.entries import Record, new_info
from wharfie.snapshots.layered import Layered
from wharfie.snapshots.layers import Learnt, learn
from wharfie.snapshots.removal import measure, remove_tree
from wharfie.snapshots.tree import Tree

if sys.platform != "win32":
    from wharfie.snapshots.overlay.extract import Extractor

    class NativeSnapshotter(Layered):
        """Layers are kept as tars; what `Layered` does with overlays is done by copies."""

        name = "native"
        suffix = ".tar"

        def __init__(self, directory: str) -> None:
            super().__init__(directory, "")

        def _write(self, chunks: Iterator[bytes], diff_id: str, part: str) -> Learnt:
            fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o400)
            try:
                tree = Tree()
                size = 0
                with collector_paused(), Ahead(chunks) as ahead, Behind(diff_id, fd) as behind:

                    def tee() -> Iterator[bytes]:
                        for chunk in ahead:
                            behind.put(chunk, [chunk])
                            yield chunk

                    for entry in Scanner(tee()):
                        tree.add(entry)
                        if entry.kind == REGULAR:
                            size += entry.stored
                    behind.finish()
                os.fsync(fd)
            finally:
                os.close(fd)
            return learn(diff_id, size, tree)

        def _publish(self, part: str, path: str) -> None:
            os.rename(part, path)

        def _hide(self, path: str) -> None:
            return

        def _release(self, used: set[str]) -> None:
            return

        def assemble(
            self, name: str, parent: str | None, diff_id: str, *, labels: dict[str, str] | None = None
        ) -> None:
            if self._assembled(name, parent, diff_id):
                return
            if not self.has_layer(diff_id):
                raise NotFound(f"assemble snapshot {name!r}: no layer {diff_id} in {self.name!r}")
            with self._entries.working():
                part = self._copied(parent, f"assemble snapshot {name!r}")
                try:
                    self._apply(diff_id, os.path.join(part, "fs"))
                    with self._entries.adding():
                        if parent is not None:
                            self._committed(parent, f"assemble snapshot {name!r}")
                        record = Record(new_info(name, KIND_COMMITTED, parent, labels), diff_id)
                        self._entries.add(record, moved=part, fsync=True)
                except AlreadyExists:
                    remove_tree(part)  # assembled by somebody else at the same time
                    if not self._assembled(name, parent, diff_id):
                        raise
                except BaseException:
                    remove_tree(part)
                    raise

        def _apply(self, diff_id: str, root: str) -> None:
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with open(self._layer(diff_id), "rb", buffering=0) as tar:
                    Extractor(fd, overlay=False).delete(Scanner(iter(lambda: tar.read(OUTPUT_BYTES), b"")))
                    tar.seek(0)
                    Extractor(fd, overlay=False).run(Scanner(iter(lambda: tar.read(OUTPUT_BYTES), b"")))
                syncfs(fd)
            finally:
                os.close(fd)

        def _copied(self, parent: str | None, doing: str) -> str:
            """A directory below tmp/ with fs/ in it: a copy of a committed snapshot's tree, or empty. For whoever holds `working()`."""
            part = self._entries.temporary()
            source = None
            if parent is not None:
                self._committed(parent, doing)
                source = os.path.join(self._entries.path(parent), "fs")
            os.mkdir(part, 0o700)
            try:
                root = os.path.join(part, "fs")
                os.mkdir(root, 0o755)
                os.chmod(root, 0o755)
                if source is not None:
                    from wharfie.snapshots.native.copy import copy_tree

                    copy_tree(source, root)
                else:
                    os.utime(root, ns=(0, 0))
            except BaseException:
                remove_tree(part)
                raise
            return part

        def usage(self, key: str) -> Usage:
            self._entries.get(key)
            return measure(os.path.join(self._entries.path(key), "fs"))

        def prepare(
            self,
            key: str,
            parent: str | None,
            *,
            labels: dict[str, str] | None = None,
            max_size_bytes: int | None = None,
        ) -> list[Mount]:
            if max_size_bytes is not None:
                raise Unsupported(
                    f"prepare snapshot {key!r}: 'native' has no size limit", hint="leave the storage size option out"
                )
            if not key:
                raise InvalidArgument("prepare snapshot: the key is empty")
            if os.path.exists(self._entries.path(key)):
                raise AlreadyExists(f"create snapshot {key!r}: the name is taken")
            record = Record(new_info(key, KIND_ACTIVE, parent, labels))
            with self._entries.working():
                part = self._copied(parent, f"prepare snapshot {key!r}")
                try:
                    with self._entries.adding():
                        if parent is not None:
                            self._committed(parent, f"prepare snapshot {key!r}")
                        self._entries.add(record, moved=part)
                except BaseException:
                    remove_tree(part)
                    raise
            return self._mounts(record)

        def _mounts(self, record: Record) -> list[Mount]:
            if record.info.kind == KIND_VIEW and record.info.parent is not None:
                return [Mount("bind", self._tree(record.info.parent), options=("rbind", "ro"))]
            option = "ro" if record.info.kind == KIND_VIEW else "rw"
            return [Mount("bind", self._tree(record.info.name), options=("rbind", option))]

        def below(self, key: str) -> list[Mount]:
            parent = self._entries.get(key).info.parent
            return [Mount("bind", self._tree(parent) if parent else self._empty, options=("rbind", "ro"))]

        def _tree(self, name: str) -> str:
            return os.path.join(self._entries.path(name), "fs")

        def upper(self, key: str) -> str | None:
            self._entries.get(key)
            return None

        def commit(
            self, name: str, key: str, *, labels: dict[str, str] | None = None, parent: str | None = None
        ) -> None:
            record = self._entries.get(key)
            if parent is not None and parent != record.info.parent:
                raise FailedPrecondition(
                    f"commit snapshot {key!r}: 'native' keeps whole trees and cannot move one to another parent",
                    hint="make a layer of the changes and assemble it",
                )
            super().commit(name, key, labels=labels)

        def remove(self, key: str) -> None:
            record = self._entries.get(key)
            if record.info.kind == KIND_COMMITTED:
                with self._entries.taking():
                    for other in self._entries.walk():
                        # Copies do not need their parent, but the rules are the same for every snapshotter; views do.
                        if other.info.parent == key:
                            raise Conflict(f"remove snapshot {key!r}: {other.info.name!r} stands on it")
                    self._entries.remove(key)
            else:
                self._entries.remove(key)
