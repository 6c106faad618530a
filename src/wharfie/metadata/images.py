# SPDX-License-Identifier: Apache-2.0
"""Image records: what a name points to, in one namespace.

The rule for names that lose their target (a dangling record takes over) needs to know how dangling names look, which
`images` defines: it is given as `dangling_prefix`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from wharfie.errdefs import NotFound
from wharfie.metadata import KIND_IMAGE, Ref, refs
from wharfie.metadata.store import Store
from wharfie.spec.image import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

_descriptor = msgspec.json.Decoder(Descriptor)
_labels = msgspec.json.Decoder(dict[str, str])
_COLUMNS = "name, target, labels, created_s, updated_s"


class ImageRow(NamedTuple):
    """Times in UTC seconds."""

    name: str
    target: Descriptor
    labels: dict[str, str]
    created_s: float
    updated_s: float


def _row(values: tuple[str, bytes, bytes, float, float]) -> ImageRow:
    name, target, labels, created_s, updated_s = values
    return ImageRow(name, _descriptor.decode(target), _labels.decode(labels), created_s, updated_s)


class Images:
    """The image records of namespace `ns`. Blocking."""

    def __init__(self, store: Store, ns: str, *, dangling_prefix: str = "<none>@") -> None:
        self._store, self._ns, self._dangling = store, ns, dangling_prefix

    def get(self, name: str) -> ImageRow:
        """Raises NotFound."""
        found = (
            self._store.reader()
            .execute(f"SELECT {_COLUMNS} FROM images WHERE ns = ? AND name = ?", (self._ns, name))  # noqa: S608
            .fetchone()
        )
        if found is None:
            raise NotFound(f"no such image: {name}")
        return _row(found)

    def by_digest(self, digest: str) -> list[ImageRow]:
        """All records that point to `digest`."""
        rows = self._store.reader().execute(
            f"SELECT {_COLUMNS} FROM images WHERE ns = ? AND digest = ? ORDER BY name",  # noqa: S608
            (self._ns, digest),
        )
        return [_row(r) for r in rows]

    def put(
        self,
        name: str,
        target: Descriptor,
        *,
        refs: Iterable[Ref] = (),
        labels: Mapping[str, str] | None = None,
    ) -> ImageRow:
        """Create or replace `name` and what it keeps; an old target without another name gets a dangling record."""
        things = list(refs)
        return self._store.write(lambda db: self._put(db, name, target, things, dict(labels or {})), durable=True)

    def _put(
        self, db: sqlite3.Connection, name: str, target: Descriptor, things: list[Ref], labels: dict[str, str]
    ) -> ImageRow:
        now = time.time()
        old = db.execute(
            "SELECT digest, target, labels, created_s FROM images WHERE ns = ? AND name = ?", (self._ns, name)
        ).fetchone()
        created_s = now
        if old is not None:
            created_s = old[3]
            if old[0] != target.digest and not name.startswith(self._dangling):
                self._leave_dangling(db, name, old, now)
        db.execute(
            "INSERT OR REPLACE INTO images (ns, name, target, digest, labels, created_s, updated_s) VALUES (?,?,?,?,?,?,?)",
            (
                self._ns,
                name,
                msgspec.json.encode(target),
                target.digest,
                msgspec.json.encode(labels),
                created_s,
                now,
            ),
        )
        refs.replace(db, self._ns, Ref(KIND_IMAGE, name), things)
        if not name.startswith(self._dangling):
            self._remove(db, self._dangling + target.digest)
        return ImageRow(name, target, labels, created_s, now)

    def _leave_dangling(
        self, db: sqlite3.Connection, name: str, old: tuple[str, bytes, bytes, float], now: float
    ) -> None:
        digest, target, labels, created_s = old
        others = db.execute(
            "SELECT count(*) FROM images WHERE ns = ? AND digest = ? AND name != ?", (self._ns, digest, name)
        ).fetchone()
        if others[0]:
            return
        dangling = self._dangling + digest
        db.execute(
            "INSERT OR REPLACE INTO images (ns, name, target, digest, labels, created_s, updated_s) VALUES (?,?,?,?,?,?,?)",
            (self._ns, dangling, target, digest, labels, created_s, now),
        )
        db.execute(
            "INSERT OR IGNORE INTO refs SELECT ns, from_kind, ?, to_kind, to_id FROM refs"
            " WHERE ns = ? AND from_kind = ? AND from_id = ?",
            (dangling, self._ns, KIND_IMAGE, name),
        )

    def delete(self, name: str) -> None:
        """Raises NotFound."""
        if not self._store.write(lambda db: self._remove(db, name), durable=True):
            raise NotFound(f"no such image: {name}")

    def _remove(self, db: sqlite3.Connection, name: str) -> bool:
        refs.drop(db, self._ns, Ref(KIND_IMAGE, name))
        return db.execute("DELETE FROM images WHERE ns = ? AND name = ?", (self._ns, name)).rowcount > 0

    def list(self) -> list[ImageRow]:
        rows = self._store.reader().execute(f"SELECT {_COLUMNS} FROM images WHERE ns = ? ORDER BY name", (self._ns,))  # noqa: S608
        return [_row(r) for r in rows]
