# SPDX-License-Identifier: Apache-2.0
"""Volume records: their table, and what uses them. Functions take the connection of a `Store.write`."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import msgspec

from wharfie.errdefs import NotFound
from wharfie.metadata import KIND_CONTAINER, Ref, refs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

KIND_VOLUME = "volume"
LABEL_ANONYMOUS = "com.docker.volume.anonymous"
TABLES = (
    "volumes",
    (
        """
        CREATE TABLE volumes (
            name TEXT PRIMARY KEY, driver TEXT NOT NULL, labels BLOB NOT NULL, options BLOB NOT NULL,
            created_s REAL NOT NULL, removing INTEGER NOT NULL DEFAULT 0
        ) WITHOUT ROWID;
        """,
    ),
)


class Volume(NamedTuple):
    """One record. `mountpoint` is the host directory that people see; `Volumes.source` is what a container binds."""

    name: str
    driver: str
    labels: dict[str, str]
    options: dict[str, str]
    created_s: float
    mountpoint: str

    @property
    def anonymous(self) -> bool:
        return LABEL_ANONYMOUS in self.labels

    @property
    def idmap(self) -> bool:
        """Whether its file system can be idmapped; network file systems cannot."""
        return not self.options.get("type", "").startswith(("nfs", "cifs", "smb", "9p"))

    def document(self) -> dict[str, Any]:
        """As inspect and list show it."""
        return {
            "CreatedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.created_s)),
            "Driver": self.driver,
            "Labels": self.labels or None,
            "Mountpoint": self.mountpoint,
            "Name": self.name,
            "Options": self.options or None,
            "Scope": "local",
        }


def use(db: sqlite3.Connection, name: str, user: tuple[str, str]) -> None:
    if db.execute("SELECT 1 FROM volumes WHERE name = ? AND NOT removing", (name,)).fetchone() is None:
        raise NotFound(f"get {name}: no such volume")
    refs.add(db, user[0], Ref(KIND_CONTAINER, user[1]), [Ref(KIND_VOLUME, name)])


def release(db: sqlite3.Connection, ns: str, container_id: str, *, remove_anonymous: bool) -> None:
    """The container keeps no volume any more. Anonymous ones that are free now get marked."""
    owner = (ns, KIND_CONTAINER, container_id, KIND_VOLUME)
    names = [
        name
        for (name,) in db.execute(
            "SELECT to_id FROM refs WHERE ns = ? AND from_kind = ? AND from_id = ? AND to_kind = ?", owner
        )
    ]
    if names:
        db.execute("DELETE FROM refs WHERE ns = ? AND from_kind = ? AND from_id = ? AND to_kind = ?", owner)
    if remove_anonymous:
        for name in names:
            found = db.execute("SELECT labels FROM volumes WHERE name = ?", (name,)).fetchone()
            if found is not None and LABEL_ANONYMOUS in msgspec.json.decode(found[0]):
                mark_removing(db, name)


def insert(db: sqlite3.Connection, volume: Volume) -> None:
    db.execute(
        "INSERT OR REPLACE INTO volumes VALUES (?, ?, ?, ?, ?, 0)",
        (
            volume.name,
            volume.driver,
            msgspec.json.encode(volume.labels),
            msgspec.json.encode(volume.options),
            volume.created_s,
        ),
    )


def mark_removing(db: sqlite3.Connection, name: str) -> None:
    db.execute(
        "UPDATE volumes SET removing = 1 WHERE name = ?"
        " AND NOT EXISTS (SELECT 1 FROM refs WHERE to_kind = ? AND to_id = volumes.name)",
        (name, KIND_VOLUME),
    )


def forget_interrupted(db: sqlite3.Connection) -> None:
    """Containers whose create was cut short keep nothing; their anonymous volumes go."""
    rows = db.execute(
        "SELECT DISTINCT ns, from_id FROM refs WHERE from_kind = ? AND to_kind = ?"
        " AND NOT EXISTS (SELECT 1 FROM containers c WHERE c.ns = refs.ns AND c.id = refs.from_id)",
        (KIND_CONTAINER, KIND_VOLUME),
    ).fetchall()
    for ns, container_id in rows:
        release(db, ns, container_id, remove_anonymous=True)
