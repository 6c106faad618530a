# SPDX-License-Identifier: Apache-2.0
"""Transfer: images between a registry and this machine.

`pull.Puller` takes a reference and leaves blobs, layers, committed snapshots and an image record; `push.Pusher` goes
the other way. Both are blocking: the daemon runs them in threads. What they need of others is stated here as
Protocols, so that neither metadata nor the worker processes are known to this package.

State on disk: none of its own. A pull that is killed leaves whole blobs, whole layers and partial ingests, all held by
a lease that metadata drops at the next start; the next pull takes every one of them up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from wharfie.images import Ref
from wharfie.snapshots import LayerInfo


class Lease(Protocol):
    """Holds things against garbage collection until its context ends."""

    id: str

    def add(self, refs: Iterable[Ref]) -> None:
        """Durable once it returns. Things may be named before they exist."""


class Leases(Protocol):
    """The leases of one namespace."""

    def hold(self, purpose: str) -> AbstractContextManager[Lease]:
        """A new lease, dropped at the end of the context, also by an exception. `purpose` is shown to people."""


class Unpacker(Protocol):
    """Turns a layer stream into a layer of the snapshotter, in whatever process."""

    def __call__(self, read_fd: int, compression: str, diff_id: str, max_size_bytes: int | None) -> LayerInfo:
        """Read `read_fd` to its end and ingest it. Blocking, called from several threads at once.

        Owns and closes `read_fd`. Raises what `Snapshotter.ingest` raises; Unavailable where the worker died.
        """


class Phase:
    """What a progress event says of one object; `id` is a digest, or the reference for RESOLVING and DONE.

    Pull of a layer: WAITING -> DOWNLOADING* -> [VERIFYING] -> DOWNLOADED -> EXTRACTING* -> PULLED, or EXISTS at once;
    RETRYING goes back to DOWNLOADING. Push: PREPARING -> PUSHING* -> PUSHED, or EXISTS, or MOUNTED.
    """

    RESOLVING = "resolving"
    WAITING = "waiting"
    DOWNLOADING = "downloading"
    RETRYING = "retrying"
    VERIFYING = "verifying"
    DOWNLOADED = "downloaded"
    EXTRACTING = "extracting"
    PULLED = "pulled"
    EXISTS = "exists"
    PREPARING = "preparing"
    PUSHING = "pushing"
    PUSHED = "pushed"
    MOUNTED = "mounted"
    DONE = "done"


class Progress(NamedTuple):
    """One step of a transfer. `current` and `total` in bytes, 0 where they say nothing. `detail`: text for people."""

    id: str
    phase: str
    current: int = 0
    total: int = 0
    detail: str = ""


ProgressCallback = Callable[[Progress], None]
"""Called from the transfer's threads, one at a time, at most some ten times a second per object. Must not block long."""
