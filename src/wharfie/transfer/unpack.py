# SPDX-License-Identifier: Apache-2.0
"""Unpacking what is in the content store, and naming the stacks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from wharfie.content import Store
from wharfie.images.walk import Image
from wharfie.snapshots import LayerInfo, Snapshotter
from wharfie.spec.digest import chain_ids
from wharfie.spec.image import LAYER_COMPRESSION
from wharfie.transfer import Phase, Progress, ProgressCallback, Unpacker

PARALLEL_LAYERS = 3


class InProcessUnpacker:
    """`transfer.Unpacker` that ingests in the calling thread: for tests, tools, and hosts without a zygote."""

    def __init__(self, snapshotter: Snapshotter) -> None:
        self._snapshotter = snapshotter

    def __call__(self, read_fd: int, compression: str, diff_id: str, max_size_bytes: int | None) -> LayerInfo:
        with os.fdopen(read_fd, "rb", buffering=0) as stream:
            return self._snapshotter.ingest(
                stream, compression=compression, diff_id=diff_id, max_size_bytes=max_size_bytes
            )


def unpack_image(
    store: Store,
    snapshotter: Snapshotter,
    unpacker: Unpacker,
    image: Image,
    *,
    max_layer_bytes: int | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Make layers and snapshots of an image whose blobs are here (`load`, `import`, another snapshotter). Idempotent.

    Raises: NotFound (a blob is missing), and what `Snapshotter.ingest` raises. The caller holds a lease.
    """
    tell = progress or (lambda _: None)

    def one(digest: str, size_bytes: int, compression: str, diff_id: str) -> None:
        tell(Progress(digest, Phase.EXTRACTING, total=size_bytes))
        unpacker(store.open(digest), compression, diff_id, max_layer_bytes)
        tell(Progress(digest, Phase.PULLED, size_bytes, size_bytes))

    layers = {
        diff_id: (d.digest, d.size, LAYER_COMPRESSION[d.media_type], diff_id)
        for d, diff_id in zip(image.manifest.layers, image.diff_ids, strict=True)
    }
    missing = [layer for diff_id, layer in layers.items() if not snapshotter.has_layer(diff_id)]
    if missing:
        with ThreadPoolExecutor(PARALLEL_LAYERS, "unpack") as pool:
            for future in [pool.submit(one, *layer) for layer in missing]:
                future.result()
    assemble(snapshotter, image.diff_ids)


def assemble(snapshotter: Snapshotter, diff_ids: Sequence[str]) -> None:
    """Name every prefix of a stack whose layers are there. Idempotent. Raises NotFound."""
    parent = None
    for chain_id, diff_id in zip(chain_ids(list(diff_ids)) if diff_ids else [], diff_ids, strict=True):
        snapshotter.assemble(chain_id, parent, diff_id)
        parent = chain_id
