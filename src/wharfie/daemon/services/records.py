# SPDX-License-Identifier: Apache-2.0
"""Metadata's rows in the words of `images` and `transfer`, which stand above it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wharfie import images as words
from wharfie.metadata import Ref
from wharfie.metadata.images import ImageRow, Images
from wharfie.metadata.leases import HeldLease, Leases

if TYPE_CHECKING:
    from wharfie.metadata.store import Store
    from wharfie.spec.image import Descriptor


def _record(row: ImageRow) -> words.ImageRecord:
    return words.ImageRecord(*row)


def _refs(refs: Iterable[words.Ref]) -> list[Ref]:
    return [Ref(r.kind, r.id) for r in refs]


class ImageRecords:
    """`images.ImageRecords` of one namespace."""

    def __init__(self, store: Store, ns: str) -> None:
        self._rows = Images(store, ns, dangling_prefix=words.DANGLING_PREFIX)

    def get(self, name: str) -> words.ImageRecord:
        return _record(self._rows.get(name))

    def by_digest(self, digest: str) -> Iterable[words.ImageRecord]:
        return [_record(r) for r in self._rows.by_digest(digest)]

    def put(
        self,
        name: str,
        target: Descriptor,
        *,
        refs: Iterable[words.Ref] = (),
        labels: Mapping[str, str] | None = None,
    ) -> words.ImageRecord:
        return _record(self._rows.put(name, target, refs=_refs(refs), labels=labels))

    def delete(self, name: str) -> None:
        self._rows.delete(name)

    def list(self) -> list[words.ImageRecord]:
        return [_record(r) for r in self._rows.list()]


class _Lease:
    def __init__(self, held: HeldLease) -> None:
        self._held = held
        self.id = held.id

    def add(self, refs: Iterable[words.Ref]) -> None:
        self._held.add(_refs(refs))


class LeaseRecords:
    """`transfer.Leases` of one namespace."""

    def __init__(self, store: Store, ns: str) -> None:
        self._leases = Leases(store, ns)

    @contextmanager
    def hold(self, purpose: str) -> Iterator[_Lease]:
        with self._leases.hold(purpose) as held:
            yield _Lease(held)
