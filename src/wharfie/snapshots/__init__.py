# SPDX-License-Identifier: Apache-2.0
"""Snapshots: file systems of images (committed) and of containers (active), as stacks of layers.

Life of an image: each layer is `ingest`ed once into a *layer* keyed by its diff_id, in any order and in parallel, with
no parent mounted. `assemble(chain_id, parent, diff_id)` then names a stack: a committed snapshot whose name is the
chain id. Life of a container: `prepare(key, parent=chain_id)` opens an active snapshot and returns the mounts that show
it; `remove(key)` throws it away. `view` is a read-only `prepare`.

Words (containerd's): *key* = active or view, *name* = committed, *parent* = a committed name or None for empty.

On disk, below `<root>/snapshots/<snapshotter>/`, owned by the snapshotter alone. Everything is written beside and
renamed, so that `kill -9` leaves at most a temporary name that `cleanup()` removes at the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from wharfie.mount import Mount

KIND_ACTIVE, KIND_VIEW, KIND_COMMITTED = "active", "view", "committed"


class Info(NamedTuple):
    name: str
    kind: str
    parent: str | None
    labels: dict[str, str]
    created_s: float
    updated_s: float


class Usage(NamedTuple):
    size_bytes: int
    inodes: int


class LayerInfo(NamedTuple):
    """What `ingest` learnt about a layer.

    `extra_ids`: owners above 65535 found in it, sorted (the user namespace needs an extent for each).
    `implicit_parents`: it has directories that no entry of its own describes.
    """

    diff_id: str
    size_bytes: int
    entries: int
    extra_ids: tuple[int, ...] = ()
    implicit_parents: bool = False


class ReadInto(Protocol):
    """A byte stream: `read(n)` gives up to n bytes, b"" at the end."""

    def read(self, n: int = -1, /) -> bytes: ...


class Snapshotter(Protocol):
    """containerd's Snapshotter, plus one-pass ingestion. Blocking; safe to call from several threads and processes."""

    name: str

    def ingest(
        self,
        stream: ReadInto,
        *,
        compression: str,
        diff_id: str,
        max_size_bytes: int | None = None,
        max_ratio: float = 1000.0,
    ) -> LayerInfo:
        """Turn a (compressed) layer tar into the layer `diff_id`, in one pass, verifying the digest of the tar.

        `compression` is "none", "gzip" or "zstd". Reads `stream` to its end.
        Raises: DataLoss (digest, truncated, trailing rubbish, malformed tar, path escape, reserved xattr, device 0/0),
                ResourceExhausted (disk full, bomb beyond max_size_bytes or max_ratio). Nothing stays in either case.
        Idempotent: a layer that is there already is read through and kept.
        """

    def has_layer(self, diff_id: str) -> bool: ...

    def layer_info(self, diff_id: str) -> LayerInfo:
        """Raises NotFound."""

    def remove_layer(self, diff_id: str) -> None:
        """Remove a layer that no committed snapshot uses. Raises NotFound, Conflict."""

    def assemble(self, name: str, parent: str | None, diff_id: str, *, labels: dict[str, str] | None = None) -> None:
        """Commit `name` = layer `diff_id` on top of `parent`, without mounting anything. Idempotent.

        Raises: NotFound (layer or parent).
        """

    def chain(self, name: str) -> list[str]:
        """diff_ids of a committed snapshot, bottom first. Raises NotFound."""

    def stat(self, key: str) -> Info:
        """Raises NotFound."""

    def usage(self, key: str) -> Usage:
        """Disk use of this snapshot alone, parents left out. Raises NotFound."""

    def prepare(
        self, key: str, parent: str | None, *, labels: dict[str, str] | None = None, max_size_bytes: int | None = None
    ) -> list[Mount]:
        """Open a writable snapshot `key` on top of `parent`.

        Raises: AlreadyExists (key taken), NotFound (parent), Unsupported (max_size_bytes where there is no quota).
        After:  the caller owns key until commit() or remove().
        """

    def view(self, key: str, parent: str | None, *, labels: dict[str, str] | None = None) -> list[Mount]: ...

    def mounts(self, key: str) -> list[Mount]:
        """The mounts of an active snapshot or view, again (after a reboot too). Outermost first."""

    def below(self, key: str) -> list[Mount]:
        """Read-only mounts that show the parent of `key` (an empty directory where it has none); recorded nowhere."""

    def upper(self, key: str) -> str | None:
        """Directory with the changes of an active snapshot (overlay upper layout), None where there is none."""

    def commit(self, name: str, key: str, *, labels: dict[str, str] | None = None, parent: str | None = None) -> None:
        """Turn active `key` into committed `name`; `parent` rebases. Raises NotFound, AlreadyExists."""

    def remove(self, key: str) -> None:
        """Remove a snapshot, active or committed. Raises NotFound, Conflict (has children)."""

    def walk(self) -> Iterator[Info]: ...

    def cleanup(self) -> None:
        """Finish or undo what a kill left half done; release mounts of layers nobody uses. Called at start and by GC."""

    def close(self) -> None:
        """Release host mounts that this snapshotter made for layers and that nobody uses any more."""


class Probe(NamedTuple):
    """Result of asking whether a snapshotter works on this host and root directory."""

    name: str
    ok: bool
    reason: str


Opener = Callable[[str, str], Snapshotter]
"""(root directory, run directory for host mounts) -> Snapshotter."""
