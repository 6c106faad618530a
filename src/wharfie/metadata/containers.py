# SPDX-License-Identifier: Apache-2.0
"""Container records: containerd's table; every API's own document is an extension (decisions 6).

`state` is what the engine last knew of the process side. It is a cache for people and for restart policies: after a
restart the truth comes from shims and exit records (decisions 3).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from wharfie.errdefs import Conflict
from wharfie.metadata import KIND_CONTAINER, KIND_SNAPSHOT, Ref, refs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

EXTENSION_DOCKER = "io.wharfie.docker.v1"


class ContainerRow(NamedTuple):
    """One record. `spec`: OCI spec as given by a containerd client, None where the engine makes it from an extension.

    `extensions`: type URL -> JSON document. `state`: JSON of the owner's choice. Times in UTC seconds.
    """

    ns: str
    id: str
    name: str | None
    image: str
    runtime: str
    snapshotter: str
    snapshot_key: str
    labels: dict[str, str]
    extensions: dict[str, bytes]
    created_s: float
    spec: bytes | None = None
    state: bytes | None = None
    updated_s: float = 0.0


_pack = msgspec.msgpack.Encoder().encode
_labels = msgspec.msgpack.Decoder(dict[str, str])
_extensions = msgspec.msgpack.Decoder(dict[str, bytes])
_COLUMNS = (
    "ns, id, name, image, runtime, snapshotter, snapshot_key, labels, extensions, created_s, spec, state, updated_s"
)


def insert(db: sqlite3.Connection, row: ContainerRow, things: Iterable[Ref]) -> None:
    """Add a record and what it keeps. Raises Conflict (name or id taken)."""
    taken = db.execute(
        "SELECT id FROM containers WHERE ns = ? AND (id = ? OR name = ?)", (row.ns, row.id, row.name)
    ).fetchone()
    if taken is not None:
        raise Conflict(f"create container {row.name or row.id!r}: the name is in use by container {taken[0]}")
    db.execute(
        f"INSERT INTO containers ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608
        (
            *row[:7],
            _pack(row.labels),
            _pack(row.extensions),
            row.created_s,
            row.spec,
            row.state,
            row.updated_s or row.created_s,
        ),
    )
    refs.add(db, row.ns, Ref(KIND_CONTAINER, row.id), things)


def put_state(db: sqlite3.Connection, ns: str, id_: str, state: bytes) -> None:
    db.execute("UPDATE containers SET state = ? WHERE ns = ? AND id = ?", (state, ns, id_))


def put_extension(db: sqlite3.Connection, ns: str, id_: str, type_url: str, document: bytes) -> None:
    """Replace one extension; a record that is gone is left alone."""
    found = db.execute("SELECT extensions FROM containers WHERE ns = ? AND id = ?", (ns, id_)).fetchone()
    if found is None:
        return
    extensions = _extensions.decode(found[0])
    extensions[type_url] = document
    db.execute(
        "UPDATE containers SET extensions = ?, updated_s = ? WHERE ns = ? AND id = ?",
        (_pack(extensions), time.time(), ns, id_),
    )


def rename(db: sqlite3.Connection, ns: str, id_: str, name: str) -> None:
    """Raises Conflict."""
    if db.execute("SELECT 1 FROM containers WHERE ns = ? AND name = ? AND id != ?", (ns, name, id_)).fetchone():
        raise Conflict(f"rename container to {name!r}: the name is in use")
    db.execute("UPDATE containers SET name = ?, updated_s = ? WHERE ns = ? AND id = ?", (name, time.time(), ns, id_))


def delete(db: sqlite3.Connection, ns: str, id_: str) -> bool:
    refs.drop(db, ns, Ref(KIND_CONTAINER, id_))
    return db.execute("DELETE FROM containers WHERE ns = ? AND id = ?", (ns, id_)).rowcount > 0


def sole_user(db: sqlite3.Connection, ns: str, id_: str) -> bool:
    """Whether the container is the last to keep the snapshot it stands on (its image has been removed meanwhile)."""
    return (
        db.execute(
            "SELECT 1 FROM refs mine WHERE ns = ? AND from_kind = ? AND from_id = ? AND to_kind = ? AND NOT EXISTS"
            " (SELECT 1 FROM refs other WHERE other.to_kind = mine.to_kind AND other.to_id = mine.to_id"
            " AND (other.from_id != mine.from_id OR other.ns != mine.ns))",
            (ns, KIND_CONTAINER, id_, KIND_SNAPSHOT),
        ).fetchone()
        is not None
    )


def load_all(db: sqlite3.Connection) -> list[ContainerRow]:
    """All records of all namespaces, oldest first."""
    return [
        ContainerRow(
            r[0],
            r[1],
            r[2],
            r[3],
            r[4],
            r[5],
            r[6],
            _labels.decode(r[7]),
            _extensions.decode(r[8]),
            r[9],
            r[10],
            r[11],
            r[12],
        )
        for r in db.execute(f"SELECT {_COLUMNS} FROM containers ORDER BY created_s")  # noqa: S608
    ]
