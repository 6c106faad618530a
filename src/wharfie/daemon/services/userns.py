# SPDX-License-Identifier: Apache-2.0
"""Host ids for the user namespaces of containers: 65536 each from one range that nobody else has.

What is in use stands in the containers' documents; nothing is stored here. Ids above 65535 that an image or a request
needs get single ids from further slots. A slot is free again when its container is gone: with idmapped mounts nothing
on disk carries host ids.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence

from wharfie.daemon.services.containers_records import Userns
from wharfie.errdefs import FailedPrecondition, ResourceExhausted

SLOT = 65536
MAX_EXTENTS = 340
"""Lines that the kernel takes in uid_map."""


class IdRange:
    """The range `first` … `first+count-1`. One per daemon; any thread may allocate."""

    def __init__(self, first: int, count: int) -> None:
        self._first, self._slots = first, count // SLOT
        self._used: dict[int, str] = {}
        self._next = 0
        self._lock = threading.Lock()

    def note(self, owner: str, userns: Userns) -> None:
        """Take the slots that `userns` says it has (records read at start)."""
        for _, host, size in userns.extents:
            for id_ in (host, host + size - 1):
                self._used[(id_ - self._first) // SLOT] = owner

    def release(self, owner: str) -> None:
        with self._lock:
            for slot in [s for s, o in self._used.items() if o == owner]:
                del self._used[slot]

    def allocate(self, owner: str, extra_ids: Iterable[int]) -> Userns:
        """A user namespace of its own with ids 0–65535 and `extra_ids` mapped. Raises ResourceExhausted."""
        extra = sorted({i for i in extra_ids if i >= SLOT})
        base = self._take(owner)
        extents = [(0, base, SLOT)]
        if extra:
            extents += self._extra_extents(owner, extra)
        if len(extents) > MAX_EXTENTS:
            self.release(owner)
            raise ResourceExhausted(
                f"map ids of container {owner[:12]}: {len(extra)} owners above 65535 need {len(extents)} extents,"
                f" the kernel takes {MAX_EXTENTS}",
                hint="run it with --userns=host",
            )
        return Userns("own", base=base, extents=extents)

    def _extra_extents(self, owner: str, extra: Sequence[int]) -> list[tuple[int, int, int]]:
        extents: list[tuple[int, int, int]] = []
        host, left = 0, 0
        for id_ in extra:
            if not left:
                host, left = self._take(owner), SLOT
            last = extents[-1] if extents else None
            if last is not None and last[0] + last[2] == id_ and last[1] + last[2] == host:
                extents[-1] = (last[0], last[1], last[2] + 1)
            else:
                extents.append((id_, host, 1))
            host, left = host + 1, left - 1
        return extents

    def _take(self, owner: str) -> int:
        # Onwards, not first fit: a slot rests as long as possible before somebody else gets it.
        with self._lock:
            for n in range(self._slots):
                slot = (self._next + n) % self._slots
                if slot not in self._used:
                    self._used[slot] = owner
                    self._next = slot + 1
                    return self._first + slot * SLOT
        raise ResourceExhausted(
            f"give container {owner[:12]} its ids: all {self._slots} slots of userns_range are in use",
            hint="remove containers, or widen userns_range in the configuration",
        )


def check_range(first: int, count: int, *, etc: str = "/etc") -> None:
    """Raises FailedPrecondition where somebody else has been given ids of the range."""
    last = first + count - 1
    for name in ("subuid", "subgid"):
        for number, fields in _rows(f"{etc}/{name}"):
            if len(fields) == 3 and fields[0] != "wharfie" and fields[1].isdigit() and fields[2].isdigit():
                low, high = int(fields[1]), int(fields[1]) + int(fields[2]) - 1
                if low <= last and first <= high:
                    _refuse(f"{etc}/{name}:{number}", f"{fields[0]} has {low}–{high}", first, last)
    for name, column in (("passwd", 2), ("group", 2)):
        for number, fields in _rows(f"{etc}/{name}"):
            if len(fields) > column and fields[column].isdigit() and first <= int(fields[column]) <= last:
                _refuse(f"{etc}/{name}:{number}", f"{fields[0]} has {fields[column]}", first, last)


def _refuse(where: str, what: str, first: int, last: int) -> None:
    raise FailedPrecondition(
        f"use ids {first}–{last} for containers: {where}: {what}", hint="set userns_range in the configuration"
    )


def _rows(path: str) -> list[tuple[int, list[str]]]:
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8", errors="replace") as f:
        return [(n, line.strip().split(":")) for n, line in enumerate(f, 1) if line.strip() and line[0] != "#"]
