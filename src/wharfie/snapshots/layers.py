# SPDX-License-Identifier: Apache-2.0
"""The layers of one snapshotter, by diff_id: `layers/<hex><suffix>` and what was learnt of each, `layers/<hex>.json`."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from wharfie.archive.compression import inflate
from wharfie.errdefs import Conflict, DataLoss, NotFound
from wharfie.fsutil import atomic
from wharfie.snapshots import LayerInfo, ReadInto
from wharfie.snapshots.entries import Entries, write_new
from wharfie.snapshots.removal import remove_tree
from wharfie.snapshots.tree import Node, Tree
from wharfie.spec.digest import encoded

SIDECAR_VERSION = 1


class Attributes(NamedTuple):
    """Of a directory: what its entry says, or what it looks like below."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[bytes, bytes]


class Learnt(NamedTuple):
    """`implicit`: directories, the root left out, that take after what is below. `root` where the layer describes it."""

    info: LayerInfo
    implicit: list[str]
    root: Attributes | None


def learn(diff_id: str, size_bytes: int, tree: Tree) -> Learnt:
    """What a layer's tree says about it."""
    implicit = [os.fsdecode(path) for path in tree.implicit_directories()]
    info = LayerInfo(diff_id, size_bytes, tree.nodes, tuple(sorted(tree.extra_ids)), bool(implicit))
    return Learnt(info, implicit, _attributes(tree.root) if tree.root.explicit else None)


def _attributes(node: Node) -> Attributes:
    ns = node.mtime_s * 1_000_000_000 + node.mtime_ns
    return Attributes(node.mode, node.uid, node.gid, ns, node.xattrs or {})


class Layers:
    """Half of a snapshotter. A subclass brings the form of a layer."""

    name = ""
    suffix = ""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._entries = Entries(directory)
        self._layers = os.path.join(directory, "layers")

    def create(self) -> None:
        """Make the store where it is missing."""
        self._entries.create()
        os.makedirs(self._layers, mode=0o700, exist_ok=True)

    def _write(self, chunks: Iterator[bytes], diff_id: str, part: str) -> Learnt:
        """Write a layer at the new path `part`, flushed."""
        raise NotImplementedError

    def _publish(self, part: str, path: str) -> None:
        """Give a finished layer its name; one that is there already stays."""
        raise NotImplementedError

    def _hide(self, path: str) -> None:
        """Let go of what was made to show the layer at `path`."""
        raise NotImplementedError

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
                learnt = self._write(chunks, diff_id, part)
                sidecar = self._entries.temporary()
                write_new(sidecar, _dump(learnt), fsync=True)
                os.rename(sidecar, self._sidecar(diff_id))
                self._publish(part, path)
            except BaseException:
                remove_tree(part)
                raise
            atomic.sync_directory(self._layers)
        return learnt.info

    def has_layer(self, diff_id: str) -> bool:
        return os.path.exists(self._layer(diff_id))

    def layer_info(self, diff_id: str) -> LayerInfo:
        return self._learnt(diff_id).info

    def _learnt(self, diff_id: str) -> Learnt:
        if not self.has_layer(diff_id):
            raise NotFound(f"look up layer {diff_id}: no such layer in {self.name!r}")
        file = self._sidecar(diff_id)
        try:
            with open(file, "rb") as f:
                return _load(f.read())
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

    def _sweep_sidecars(self) -> None:
        """Those whose layer was never finished, or is gone."""
        with self._entries.taking():
            names = set(os.listdir(self._layers))
            for name in names:
                if name.endswith(".json") and name.removesuffix(".json") + self.suffix not in names:
                    os.unlink(os.path.join(self._layers, name))


def _dump(learnt: Learnt) -> bytes:
    document: dict[str, Any] = {"version": SIDECAR_VERSION, **learnt.info._asdict(), "implicit": learnt.implicit}
    root = learnt.root
    if root is not None:
        xattrs = {os.fsdecode(k): base64.b64encode(v).decode() for k, v in root.xattrs.items()}
        document["root"] = [root.mode, root.uid, root.gid, root.mtime_ns, xattrs]
    return json.dumps(document).encode()


def _load(data: bytes) -> Learnt:
    d = json.loads(data)
    if d["version"] != SIDECAR_VERSION:
        raise ValueError(f"version {d['version']} is unknown")
    info = LayerInfo(d["diff_id"], d["size_bytes"], d["entries"], tuple(d["extra_ids"]), bool(d["implicit_parents"]))
    root = None
    if "root" in d:
        mode, uid, gid, mtime_ns, xattrs = d["root"]
        root = Attributes(mode, uid, gid, mtime_ns, {os.fsencode(k): base64.b64decode(v) for k, v in xattrs.items()})
    return Learnt(info, d["implicit"], root)
