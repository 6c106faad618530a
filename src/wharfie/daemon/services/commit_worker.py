# SPDX-License-Identifier: Apache-2.0
"""What a container changed, read in a worker process: entries `changes` (docker diff) and `changes-layer` (commit)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import msgspec

from wharfie.diff import compare
from wharfie.snapshots.ladder import open_snapshotter

if sys.platform == "win32":
    raise ImportError("commit workers are Linux processes")


class Request(msgspec.Struct):
    """Which snapshot: `snapshotter` below the engine's `root` and `state`, and its key."""

    snapshotter: str
    root: str
    state: str
    key: str


STUBS = frozenset(
    {
        b".dockerenv", b"dev", b"dev/console", b"dev/mqueue", b"dev/pts", b"dev/shm", b"etc/hostname", b"etc/hosts",
        b"etc/mtab", b"etc/resolv.conf", b"proc", b"sys",
    }
)  # fmt: skip
"""Mount points of every container, which are made where an image lacks them and are no change of anybody's."""
_KINDS = {"C": 0, "A": 1, "D": 2}


def changes(args: bytes, _fds: Sequence[int]) -> bytes:
    """JSON of Docker's [{"Path", "Kind"}]."""
    request = msgspec.json.decode(args, type=Request)
    snapshotter = open_snapshotter(request.snapshotter, request.root, request.state)
    found = compare.changes(snapshotter, request.key, stubs=STUBS)
    return msgspec.json.encode([{"Path": os.fsdecode(c.path), "Kind": _KINDS[c.kind]} for c in found])


def layer(args: bytes, fds: Sequence[int]) -> bytes:
    """The layer's tar, to the last descriptor."""
    request = msgspec.json.decode(args, type=Request)
    snapshotter = open_snapshotter(request.snapshotter, request.root, request.state)
    out = fds[-1]

    def put(data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(out, view) :]

    compare.write_layer(snapshotter, request.key, put, stubs=STUBS)
    return b""
