# SPDX-License-Identifier: Apache-2.0
"""Rows of the refs table. All take the connection of a `Store.write` function, or a reader."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from wharfie.metadata import Ref


def add(db: sqlite3.Connection, ns: str, owner: Ref, things: Iterable[Ref]) -> None:
    """`owner` keeps `things` too."""
    db.executemany(
        "INSERT OR IGNORE INTO refs VALUES (?, ?, ?, ?, ?)", [(ns, owner.kind, owner.id, t.kind, t.id) for t in things]
    )


def replace(db: sqlite3.Connection, ns: str, owner: Ref, things: Iterable[Ref]) -> None:
    """`owner` keeps `things` and nothing else."""
    drop(db, ns, owner)
    add(db, ns, owner, things)


def drop(db: sqlite3.Connection, ns: str, owner: Ref) -> None:
    """`owner` keeps nothing any more."""
    db.execute("DELETE FROM refs WHERE ns = ? AND from_kind = ? AND from_id = ?", (ns, owner.kind, owner.id))


def kept(db: sqlite3.Connection) -> dict[str, set[str]]:
    """Everything that anybody keeps, in all namespaces: kind -> ids."""
    found: dict[str, set[str]] = {}
    for kind, id_ in db.execute("SELECT DISTINCT to_kind, to_id FROM refs"):
        found.setdefault(kind, set()).add(id_)
    return found


def owners(db: sqlite3.Connection, thing: Ref) -> list[tuple[str, str, str]]:
    """(ns, kind, id) of all that keep `thing`."""
    return list(db.execute("SELECT ns, from_kind, from_id FROM refs WHERE to_kind = ? AND to_id = ?", thing))
