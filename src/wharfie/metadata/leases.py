# SPDX-License-Identifier: Apache-2.0
"""Leases: keep things against garbage collection while something is being made of them."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from wharfie.errdefs import NotFound
from wharfie.metadata import KIND_LEASE, Ref, refs
from wharfie.metadata.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

LABEL_PURPOSE = "io.wharfie.lease.purpose"
LABEL_PROCESS = "io.wharfie.lease.process"
"""Present on a lease that belongs to a running operation of the daemon; dropped at the daemon's next start."""


class LeaseRow(NamedTuple):
    id: str
    labels: dict[str, str]
    created_s: float
    expires_s: float | None


class HeldLease:
    """A lease that `Leases.hold` gave out."""

    def __init__(self, store: Store, ns: str, id_: str) -> None:
        self._store, self._ns, self.id = store, ns, id_

    def add(self, refs: Iterable[Ref]) -> None:
        """Keep these too. Once it returns, a collection that runs now spares them; they need not exist yet."""
        things = list(refs)
        self._store.write(lambda db: _add(db, self._ns, self.id, things))


def _add(db: sqlite3.Connection, ns: str, id_: str, things: list[Ref]) -> None:
    if db.execute("SELECT 1 FROM leases WHERE ns = ? AND id = ?", (ns, id_)).fetchone() is None:
        raise NotFound(f"no such lease: {id_}")
    refs.add(db, ns, Ref(KIND_LEASE, id_), things)


class Leases:
    """The leases of namespace `ns`. Blocking."""

    def __init__(self, store: Store, ns: str) -> None:
        self._store, self._ns = store, ns

    @contextlib.contextmanager
    def hold(self, purpose: str) -> Iterator[HeldLease]:
        """A lease for the length of the context."""
        row = self.create(labels={LABEL_PURPOSE: purpose, LABEL_PROCESS: "1"})
        try:
            yield HeldLease(self._store, self._ns, row.id)
        finally:
            self._store.write(lambda db: _drop(db, self._ns, row.id))

    def create(
        self, id_: str = "", *, labels: dict[str, str] | None = None, expires_s: float | None = None
    ) -> LeaseRow:
        """A lease that stays until `delete` or its expiry."""
        row = LeaseRow(id_ or secrets.token_hex(16), labels or {}, time.time(), expires_s)
        self._store.write(
            lambda db: db.execute(
                "INSERT INTO leases VALUES (?, ?, ?, ?, ?)",
                (self._ns, row.id, msgspec.json.encode(row.labels), row.created_s, row.expires_s),
            )
        )
        return row

    def add(self, id_: str, things: Iterable[Ref]) -> None:
        """Raises NotFound."""
        listed = list(things)
        self._store.write(lambda db: _add(db, self._ns, id_, listed))

    def delete(self, id_: str) -> None:
        """Raises NotFound."""
        if not self._store.write(lambda db: _drop(db, self._ns, id_)):
            raise NotFound(f"no such lease: {id_}")

    def list(self) -> list[LeaseRow]:
        rows = self._store.reader().execute(
            "SELECT id, labels, created_s, expires_s FROM leases WHERE ns = ? ORDER BY created_s", (self._ns,)
        )
        return [LeaseRow(r[0], msgspec.json.decode(r[1], type=dict[str, str]), r[2], r[3]) for r in rows]


def _drop(db: sqlite3.Connection, ns: str, id_: str) -> bool:
    refs.drop(db, ns, Ref(KIND_LEASE, id_))
    return db.execute("DELETE FROM leases WHERE ns = ? AND id = ?", (ns, id_)).rowcount > 0


def drop_interrupted(store: Store, now_s: float) -> int:
    """Drop leases of operations that a former process did not finish, and expired ones; how many."""

    def run(db: sqlite3.Connection) -> int:
        gone = 0
        for ns, id_, labels, expires_s in db.execute("SELECT ns, id, labels, expires_s FROM leases").fetchall():
            if LABEL_PROCESS in msgspec.json.decode(labels) or (expires_s is not None and expires_s < now_s):
                gone += _drop(db, ns, id_)
        return gone

    return store.write(run)
