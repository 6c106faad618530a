# SPDX-License-Identifier: Apache-2.0
"""What `erofs` and `overlay` share: committed snapshots are stacks of layers, active ones an overlay on top.

A subclass brings the form of a layer: how it is written, and a short path that shows it as a directory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

from wharfie.archive.compression import inflate
from wharfie.errdefs import Conflict, DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unsupported
from wharfie.fsutil import atomic
from wharfie.mount import Mount
from wharfie.snapshots import KIND_ACTIVE, KIND_COMMITTED, KIND_VIEW, Info, LayerInfo, ReadInto, Usage
from wharfie.snapshots.entries import Entries, Record, new_info
from wharfie.snapshots.removal import measure, remove_tree
from wharfie.spec.digest import encoded

SIDECAR_VERSION = 1
_PAGE_BYTES = 4096
_OVERLAY = ("index=off", "metacopy=off", "redirect_dir=nofollow")
"""Said outright, so that the host's defaults cannot change what an upper directory means to the differ."""
T = TypeVar("T")


class Layered:
    """`snapshots.Snapshotter` on overlayfs. Safe to use from several threads and processes."""

    name = ""
    suffix = ""

    def __init__(self, directory: str, state: str) -> None:
        self.directory = directory
        self.state = state
        self._entries = Entries(directory)
        self._layers = os.path.join(directory, "layers")
        self._empty = os.path.join(directory, "empty")

    def create(self) -> None:
        """Make the store where it is missing."""
        self._entries.create()
        for path in (self._layers, self._empty):
            os.makedirs(path, mode=0o700, exist_ok=True)
        os.chmod(self._empty, 0o755)

    # What a form of layer must bring.

    def _write(self, chunks: Iterator[bytes], diff_id: str, part: str) -> tuple[LayerInfo, list[str]]:
        """Write a layer at the new path `part`, flushed; also the paths of its implicit directories."""
        raise NotImplementedError

    def _publish(self, part: str, path: str) -> None:
        """Give a finished layer its name; one that is there already stays."""
        raise NotImplementedError

    def _shown(self, path: str) -> str:
        """A short path of a directory that shows the layer at `path`, good for lowerdir=."""
        raise NotImplementedError

    def _hide(self, path: str) -> None:
        """Let go of what `_shown` made."""
        raise NotImplementedError

    def _release(self, used: set[str]) -> None:
        """Let go of everything that `_shown` made for layers whose path is not in `used`."""
        raise NotImplementedError

    # Layers.

    def _layer(self, diff_id: str) -> str:
        return os.path.join(self._layers, encoded(diff_id) + self.suffix)

    def _sidecar(self, diff_id: str) -> str:
        return os.path.join(self._layers, encoded(diff_id) + ".json")

    def ingest(
        self,
        stream: ReadInto,
        *,
        compression: str,
        diff_id: str,
        max_size_bytes: int | None = None,
        max_ratio: float = 1000.0,
    ) -> LayerInfo:
        chunks = inflate(stream, compression, max_bytes=max_size_bytes, max_ratio=max_ratio)
        path = self._layer(diff_id)
        if os.path.exists(path):
            while stream.read(1 << 20):
                pass
            return self.layer_info(diff_id)
        with self._entries.working():
            part = self._entries.temporary()
            try:
                info, implicit = self._write(chunks, diff_id, part)
                document = {"version": SIDECAR_VERSION, **info._asdict(), "implicit": implicit}
                atomic.write(self._sidecar(diff_id), json.dumps(document).encode(), 0o600, fsync=True)
                self._publish(part, path)
            except BaseException:
                remove_tree(part)
                raise
            atomic.sync_directory(self._layers)
        return info

    def has_layer(self, diff_id: str) -> bool:
        return os.path.exists(self._layer(diff_id))

    def layer_info(self, diff_id: str) -> LayerInfo:
        return self._learnt(diff_id)[0]

    def _learnt(self, diff_id: str) -> tuple[LayerInfo, list[str]]:
        if not self.has_layer(diff_id):
            raise NotFound(f"look up layer {diff_id}: no such layer in {self.name!r}")
        file = self._sidecar(diff_id)
        try:
            with open(file, "rb") as f:
                d = json.loads(f.read())
            if d["version"] != SIDECAR_VERSION:
                raise DataLoss(f"read {file!r}: version {d['version']} is unknown")
            info = LayerInfo(
                d["diff_id"], d["size_bytes"], d["entries"], tuple(d["extra_ids"]), bool(d["implicit_parents"])
            )
            return info, d["implicit"]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise DataLoss(f"read {file!r}: {e}", hint="remove the image and pull it again") from e

    def remove_layer(self, diff_id: str) -> None:
        path = self._layer(diff_id)
        with self._entries.taking():
            if not os.path.exists(path):
                raise NotFound(f"remove layer {diff_id}: no such layer in {self.name!r}")
            for record in self._entries.walk():
                if record.diff_id == diff_id:
                    raise Conflict(f"remove layer {diff_id}: snapshot {record.info.name!r} uses it")
            self._hide(path)
            self._discard(path)
            os.unlink(self._sidecar(diff_id))

    def _discard(self, path: str) -> None:
        """A tree goes by rename first: half a layer must never be found under its name."""
        part = self._entries.temporary()
        with self._entries.working():
            os.rename(path, part)
            remove_tree(part)

    # Snapshots.

    def assemble(self, name: str, parent: str | None, diff_id: str, *, labels: dict[str, str] | None = None) -> None:
        with self._entries.adding():
            if self._assembled(name, parent, diff_id):
                return
            if not self.has_layer(diff_id):
                raise NotFound(f"assemble snapshot {name!r}: no layer {diff_id} in {self.name!r}")
            if parent is not None:
                self._committed(parent, f"assemble snapshot {name!r}")
            self._entries.add(Record(new_info(name, KIND_COMMITTED, parent, labels), diff_id), fsync=True)

    def _assembled(self, name: str, parent: str | None, diff_id: str) -> bool:
        """Whether `name` exists, and just so. Raises Conflict where it is something else."""
        try:
            there = self._entries.get(name)
        except NotFound:
            return False
        if (there.info.parent, there.diff_id, there.info.kind) == (parent, diff_id, KIND_COMMITTED):
            return True
        raise Conflict(f"assemble snapshot {name!r}: it exists with another parent or layer")

    def _committed(self, name: str, doing: str) -> Record:
        try:
            record = self._entries.get(name)
        except NotFound:
            raise NotFound(f"{doing}: no parent {name!r}") from None
        if record.info.kind != KIND_COMMITTED:
            raise FailedPrecondition(f"{doing}: parent {name!r} is not committed")
        return record

    def _stack(self, name: str | None) -> list[Record]:
        """Records of a committed snapshot and all below it, top first."""
        stack = []
        while name is not None:
            record = self._committed(name, "look up snapshot")
            stack.append(record)
            name = record.info.parent
        return stack

    def chain(self, name: str) -> list[str]:
        stack = self._stack(name)
        for record in stack:
            if not record.diff_id:
                raise FailedPrecondition(f"list layers of {name!r}: {record.info.name!r} was never a layer of an image")
        return [record.diff_id for record in reversed(stack)]

    def stat(self, key: str) -> Info:
        return self._entries.get(key).info

    def usage(self, key: str) -> Usage:
        record = self._entries.get(key)
        if record.diff_id:
            info = self.layer_info(record.diff_id)
            return Usage(info.size_bytes, info.entries)
        return measure(os.path.join(self._entries.path(key), "fs"))

    def prepare(
        self, key: str, parent: str | None, *, labels: dict[str, str] | None = None, max_size_bytes: int | None = None
    ) -> list[Mount]:
        if max_size_bytes is not None:
            raise Unsupported(
                f"prepare snapshot {key!r}: {self.name!r} has no size limit on this file system",
                hint="leave the storage size option out",
            )
        return self._open(key, KIND_ACTIVE, parent, labels)

    def view(self, key: str, parent: str | None, *, labels: dict[str, str] | None = None) -> list[Mount]:
        return self._open(key, KIND_VIEW, parent, labels)

    def _open(self, key: str, kind: str, parent: str | None, labels: dict[str, str] | None) -> list[Mount]:
        if not key:
            raise InvalidArgument("prepare snapshot: the key is empty")
        with self._entries.adding():
            if parent is not None:
                self._committed(parent, f"prepare snapshot {key!r}")
            record = Record(new_info(key, kind, parent, labels))
            self._entries.add(record, ("fs", "work") if kind == KIND_ACTIVE else ("fs",))
        try:
            return self._mounts(record)
        except BaseException:
            self._entries.remove(key)
            raise

    def mounts(self, key: str) -> list[Mount]:
        record = self._entries.get(key)
        if record.info.kind == KIND_COMMITTED:
            raise FailedPrecondition(
                f"mount snapshot {key!r}: it is committed", hint="prepare or view a snapshot on it"
            )
        return self._mounts(record)

    def _mounts(self, record: Record) -> list[Mount]:
        path = self._entries.path(record.info.name)
        writable = record.info.kind == KIND_ACTIVE
        lowers = [self._shown(layer) for layer in self._paths(record.info.parent)]
        upper = os.path.join(path, "fs")
        if not lowers:
            return [Mount("bind", upper, options=("rbind", "rw" if writable else "ro"))]
        if not writable and len(lowers) == 1:
            lowers.append(self._empty)  # overlayfs wants two, and plain layers show their whiteouts
        options = [*_OVERLAY, "lowerdir=" + ":".join(lowers)]
        if writable:
            options += [f"upperdir={upper}", f"workdir={os.path.join(path, 'work')}"]
        else:
            options.append("ro")
        if sum(len(option) + 1 for option in options) > _PAGE_BYTES:
            raise FailedPrecondition(
                f"mount snapshot {record.info.name!r}: {len(lowers)} layers do not fit one mount",
                hint="shorten the state directory's path, or squash the image",
            )
        return [Mount("overlay", "overlay", options=tuple(options))]

    def _paths(self, name: str | None) -> list[str]:
        """Layers of a committed snapshot as they lie on disk, top first."""
        paths = []
        for record in self._stack(name):
            if record.fill:
                paths.append(self._fill(record.info.name))
            if record.diff_id:
                paths.append(self._layer(record.diff_id))
            else:
                paths.append(os.path.join(self._entries.path(record.info.name), "fs"))
        return paths

    def _fill(self, name: str) -> str:
        return os.path.join(self._entries.path(name), "fill" + self.suffix)

    def upper(self, key: str) -> str | None:
        record = self._entries.get(key)
        return os.path.join(self._entries.path(key), "fs") if record.info.kind == KIND_ACTIVE else None

    def commit(self, name: str, key: str, *, labels: dict[str, str] | None = None, parent: str | None = None) -> None:
        with self._entries.adding():
            record = self._entries.get(key)
            if record.info.kind != KIND_ACTIVE:
                raise FailedPrecondition(f"commit snapshot {key!r}: it is {record.info.kind}, not active")
            if parent is None:
                parent = record.info.parent
            else:
                self._committed(parent, f"commit snapshot {key!r}")
            remove_tree(os.path.join(self._entries.path(key), "work"))
            self._entries.rename(key, Record(new_info(name, KIND_COMMITTED, parent, labels)))

    def remove(self, key: str) -> None:
        record = self._entries.get(key)
        if record.info.kind != KIND_COMMITTED:
            self._entries.remove(key)
            return
        with self._entries.taking():
            for other in self._entries.walk():
                if other.info.parent == key:
                    raise Conflict(f"remove snapshot {key!r}: {other.info.name!r} stands on it")
            for path in (self._fill(key), os.path.join(self._entries.path(key), "fs")):
                self._hide(path)
            self._entries.remove(key)

    def walk(self) -> Iterator[Info]:
        for record in self._entries.walk():
            yield record.info

    def cleanup(self) -> None:
        self._entries.sweep()
        with self._entries.taking():
            names = set(os.listdir(self._layers))
            for name in names:
                if name.endswith(".json") and name.removesuffix(".json") + self.suffix not in names:
                    os.unlink(os.path.join(self._layers, name))
        self._release(self._used(lambda _: True))

    def close(self) -> None:
        self._release(self._used(lambda record: record.info.kind != KIND_COMMITTED))

    def _used(self, wanted: Callable[[Record], bool]) -> set[str]:
        """Paths of the layers below all snapshots that are `wanted`."""
        used: set[str] = set()
        for record in self._entries.walk():
            if wanted(record):
                name = record.info.name if record.info.kind == KIND_COMMITTED else record.info.parent
                used.update(self._paths(name))
        return used
