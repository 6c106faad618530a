# SPDX-License-Identifier: Apache-2.0
"""A blob becomes a layer. Runs in a worker process: inflating and scanning hold the interpreter."""

from __future__ import annotations

from wharfie.snapshots import LayerInfo, Snapshotter


def apply(
    snapshotter: Snapshotter,
    path: str,
    *,
    compression: str,
    diff_id: str,
    max_size_bytes: int | None = None,
    max_ratio: float = 1000.0,
) -> LayerInfo:
    """Ingest the blob at `path`. Raises what `Snapshotter.ingest` raises, and FileNotFoundError."""
    with open(path, "rb", buffering=0) as blob:
        return snapshotter.ingest(
            blob, compression=compression, diff_id=diff_id, max_size_bytes=max_size_bytes, max_ratio=max_ratio
        )
