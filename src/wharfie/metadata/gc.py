# SPDX-License-Identifier: Apache-2.0
"""Garbage collection: what nobody refers to goes. References and leases decide, never ages.

Order: look at what is there first, at what is kept second. Something that is written in between is not seen, and
something that is kept in between is spared, because the last look and the removal run in the writer thread of the
store, where every `Lease.add` and `Images.put` runs too. In small portions, so that nobody waits long.

Roots are the rows of `refs`; beyond them an active snapshot keeps its parents, and a committed one its layers.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from wharfie.content import Store as ContentStore
from wharfie.errdefs import Conflict, NotFound
from wharfie.metadata import KIND_BLOB, KIND_LAYER, KIND_SNAPSHOT, refs
from wharfie.metadata.store import Store
from wharfie.snapshots import KIND_COMMITTED, Snapshotter
from wharfie.spec.digest import is_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

_log = logging.getLogger(__name__)

PORTION = 16


class Collected(NamedTuple):
    """What went."""

    blobs: int = 0
    snapshots: int = 0
    layers: int = 0
    freed_bytes: int = 0


def collect(store: Store, content: ContentStore, snapshotters: Iterable[Snapshotter]) -> Collected:
    """One collection. Blocking, for a background thread; two at once are one too many but harm nothing."""
    snapshots = layers = 0
    for snapshotter in snapshotters:
        gone, diff_ids = _collect_snapshots(store, snapshotter)
        snapshots += gone
        layers += _collect_layers(store, snapshotter, diff_ids)
    blobs, freed = _collect_blobs(store, content)
    return Collected(blobs, snapshots, layers, freed)


def drop_dead_ingests(content: ContentStore) -> int:
    """For the start: partial downloads that nobody will take up, because their blob is here or their name was random.

    A ref that ends in a digest belongs to a download and is resumed by its next pull; how many went.
    """
    gone = 0
    for status in list(content.ingests()):
        digest = status.ref.partition("-")[2]
        if is_digest(digest) and not content.has(digest):
            continue
        with contextlib.suppress(NotFound):
            content.abort(status.ref)
            gone += 1
    return gone


def _collect_snapshots(store: Store, snapshotter: Snapshotter) -> tuple[int, set[str]]:
    """How many went, and the layers that they were made of."""
    infos = {info.name: info for info in snapshotter.walk()}
    diff_ids: set[str] = set()
    for info in infos.values():
        if info.kind == KIND_COMMITTED:
            with contextlib.suppress(NotFound):
                diff_ids.update(snapshotter.chain(info.name))
    kept = refs.kept(store.reader()).get(KIND_SNAPSHOT, set())
    live: set[str] = set()
    for info in infos.values():
        if info.kind != KIND_COMMITTED or info.name in kept:
            name: str | None = info.name
            while name is not None and name not in live:
                live.add(name)
                name = infos[name].parent if name in infos else None
    dead = [name for name in infos if name not in live]
    children: dict[str | None, int] = {}
    for name in dead:
        children[infos[name].parent] = children.get(infos[name].parent, 0) + 1
    # Children before parents: repeatedly those without any.
    gone = 0
    ready = [n for n in dead if not children.get(n)]
    while ready:
        name = ready.pop()
        if not _remove_snapshot(store, snapshotter, name):
            continue
        gone += 1
        parent = infos[name].parent
        if parent is not None and parent not in live:
            children[parent] -= 1
            if not children[parent]:
                ready.append(parent)
    return gone, diff_ids


def _remove_snapshot(store: Store, snapshotter: Snapshotter, name: str) -> bool:
    def run(db: sqlite3.Connection) -> bool:
        if db.execute("SELECT 1 FROM refs WHERE to_kind = ? AND to_id = ?", (KIND_SNAPSHOT, name)).fetchone():
            return False
        try:
            snapshotter.remove(name)
        except (NotFound, Conflict) as e:
            _log.debug("collect snapshot %s: %s", name, e)
            return False
        return True

    return store.write(run)


def _layers(snapshotter: Snapshotter) -> Iterator[str]:
    """All layers, where the snapshotter can list them."""
    walk = getattr(snapshotter, "layers", None)
    return iter(walk()) if walk is not None else iter(())


def _collect_layers(store: Store, snapshotter: Snapshotter, candidates: set[str]) -> int:
    used: set[str] = set()
    for info in snapshotter.walk():
        if info.kind == KIND_COMMITTED:
            with contextlib.suppress(NotFound):
                used.update(snapshotter.chain(info.name))
    dead = sorted((candidates | set(_layers(snapshotter))) - used)

    def run(db: sqlite3.Connection, portion: Sequence[str]) -> int:
        gone = 0
        for diff_id in portion:
            if db.execute("SELECT 1 FROM refs WHERE to_kind = ? AND to_id = ?", (KIND_LAYER, diff_id)).fetchone():
                continue
            try:
                snapshotter.remove_layer(diff_id)
                gone += 1
            except (NotFound, Conflict) as e:
                _log.debug("collect layer %s: %s", diff_id, e)
        return gone

    return sum(store.write(lambda db, p=p: run(db, p)) for p in _portions(dead))  # type: ignore[misc]


def _collect_blobs(store: Store, content: ContentStore) -> tuple[int, int]:
    found = {info.digest: info.size_bytes for info in content.walk()}
    kept = refs.kept(store.reader()).get(KIND_BLOB, set())
    dead = sorted(found.keys() - kept)

    def run(db: sqlite3.Connection, portion: Sequence[str]) -> tuple[int, int]:
        gone = freed = 0
        for digest in portion:
            if db.execute("SELECT 1 FROM refs WHERE to_kind = ? AND to_id = ?", (KIND_BLOB, digest)).fetchone():
                continue
            with contextlib.suppress(NotFound):
                content.delete(digest)
                gone, freed = gone + 1, freed + found[digest]
        return gone, freed

    blobs = freed = 0
    for portion in _portions(dead):
        n, size = store.write(lambda db, p=portion: run(db, p))  # type: ignore[misc]
        blobs, freed = blobs + n, freed + size
    return blobs, freed


def _portions(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(items), PORTION):
        yield items[at : at + PORTION]
