# SPDX-License-Identifier: Apache-2.0
"""What transfers need around them in tests: a real metadata database, and a snapshotter that keeps verified tars.

The snapshotter is real where transfers look (bytes, digests, errors) and has no file systems, so that these tests say
something about transfers alone and run without root.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from pathlib import Path

import zstandard

from wharfie.content.local import LocalStore, open_store
from wharfie.errdefs import DataLoss, NotFound, ResourceExhausted
from wharfie.images import ImageRecord
from wharfie.metadata.images import Images
from wharfie.metadata.leases import Leases
from wharfie.metadata.store import Store as Metadata
from wharfie.registry import RegistryOptions
from wharfie.registry.client import Registry
from wharfie.snapshots import LayerInfo
from wharfie.spec.reference import parse_reference
from wharfie.transfer import Progress
from wharfie.transfer.pull import Puller, PullResult
from wharfie.transfer.unpack import InProcessUnpacker


class LayersOnly:
    """The part of `Snapshotter` that transfers use."""

    name = "layers-only"

    def __init__(self) -> None:
        self.layers: dict[str, bytes] = {}
        self.stacks: dict[str, tuple[str | None, str]] = {}
        self.ingests = 0

    def ingest(self, stream, *, compression, diff_id, max_size_bytes=None, max_ratio=1000.0) -> LayerInfo:
        self.ingests += 1
        inflate = {
            "gzip": lambda: zlib.decompressobj(31),
            "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
            "none": lambda: None,
        }[compression]()
        out = bytearray()
        while chunk := stream.read(65536):
            try:
                out += inflate.decompress(chunk) if inflate else chunk
            except zlib.error as e:
                raise DataLoss(f"ingest layer {diff_id}: {e}") from e
            if max_size_bytes is not None and len(out) > max_size_bytes:
                raise ResourceExhausted(f"ingest layer {diff_id}: larger than {max_size_bytes} bytes")
        if "sha256:" + hashlib.sha256(out).hexdigest() != diff_id:
            raise DataLoss(f"ingest layer {diff_id}: its tar has another digest")
        self.layers[diff_id] = bytes(out)
        return LayerInfo(diff_id, len(out), 0)

    def has_layer(self, diff_id: str) -> bool:
        return diff_id in self.layers

    def assemble(self, name, parent, diff_id, *, labels=None) -> None:
        if diff_id not in self.layers or (parent is not None and parent not in self.stacks):
            raise NotFound(f"assemble {name}")
        self.stacks[name] = (parent, diff_id)


class Stand:
    """One machine's content, layers, records and registry client."""

    def __init__(self, root: Path, **options: object) -> None:
        self.root = root
        self.content: LocalStore = open_store(str(root / "content"))
        self.layers = LayersOnly()
        self.metadata = Metadata(str(root / "metadata.db"))
        self.metadata.open()
        self.records = Images(self.metadata, "default")
        self.leases = Leases(self.metadata, "default")
        settings = {"config_dirs": (str(root / "certs.d"),), "backoff_s": 0.005, **options}
        self.registry = Registry(RegistryOptions(**settings))  # type: ignore[arg-type]
        self.puller = Puller(self.registry, self.content, self.layers, InProcessUnpacker(self.layers))  # type: ignore[arg-type]
        self.events: list[Progress] = []

    def pull(self, ref: str, **more: object) -> PullResult:
        return self.puller.pull(parse_reference(ref), self.records, self.leases, progress=self.events.append, **more)  # type: ignore[arg-type]

    def phases(self, digest: str) -> list[str]:
        """Phases of one object, each change once."""
        seen: list[str] = []
        for e in self.events:
            if e.id == digest and (not seen or seen[-1] != e.phase):
                seen.append(e.phase)
        return seen

    def partials(self) -> list[str]:
        return os.listdir(self.root / "content/ingest")

    def names(self) -> list[str]:
        return [r.name for r in self.records.list()]

    def record(self, name: str) -> ImageRecord:
        return self.records.get(name)

    def close(self) -> None:
        self.registry.close()
        self.metadata.close()
        for thread in threading.enumerate():
            if thread.name.startswith("layer-"):
                thread.join(5)
        assert not [t.name for t in threading.enumerate() if t.name.startswith(("layer-", "pull", "unpack"))]
