# SPDX-License-Identifier: Apache-2.0
"""Entry `unpack`: `Snapshotter.ingest` in a process of its own, so that unpacking never holds the daemon's GIL."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def unpack(args: bytes, fds: Sequence[int]) -> bytes:
    """Args: JSON {snapshotter, root, state, compression, diff_id, max_size_bytes}; fds: the stream. JSON of LayerInfo."""
    from wharfie.snapshots.ladder import open_snapshotter

    a = json.loads(args)
    snapshotter = open_snapshotter(a["snapshotter"], a["root"], a["state"])
    try:
        with os.fdopen(fds[0], "rb", buffering=0) as stream:
            info = snapshotter.ingest(
                stream, compression=a["compression"], diff_id=a["diff_id"], max_size_bytes=a["max_size_bytes"]
            )
    finally:
        snapshotter.close()
    return json.dumps(info._asdict()).encode()
