# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from wharfie.daemon.services.userns import SLOT, IdRange, check_range
from wharfie.errdefs import FailedPrecondition, ResourceExhausted

FIRST = 10 * SLOT


def test_slots_do_not_overlap_and_rest_before_reuse() -> None:
    ids = IdRange(FIRST, 4 * SLOT)
    bases = [ids.allocate(n, []).base for n in "abc"]
    assert bases == [FIRST, FIRST + SLOT, FIRST + 2 * SLOT]
    ids.release("a")
    assert ids.allocate("d", []).base == FIRST + 3 * SLOT
    assert ids.allocate("e", []).base == FIRST
    with pytest.raises(ResourceExhausted, match="all 4 slots"):
        ids.allocate("f", [])


def test_ids_above_65535_get_extents_of_their_own() -> None:
    ids = IdRange(FIRST, 4 * SLOT)
    userns = ids.allocate("a", [0, 1000, 200001, 200002, 1000680000])
    assert userns.extents == [
        (0, FIRST, SLOT),
        (200001, FIRST + SLOT, 2),
        (1000680000, FIRST + SLOT + 2, 1),
    ]
    assert userns.option() == f"0:{FIRST}:{SLOT};200001:{FIRST + SLOT}:2;1000680000:{FIRST + SLOT + 2}:1"
    assert ids.allocate("b", []).base == FIRST + 2 * SLOT


def test_more_owners_than_the_kernel_maps() -> None:
    ids = IdRange(FIRST, 4 * SLOT)
    with pytest.raises(ResourceExhausted, match="340"):
        ids.allocate("a", range(100_000, 101_000, 2))
    assert ids.allocate("b", []).extents, "the failed one gave its slots back"
    for name in "cde":
        ids.allocate(name, [])


def test_recorded_slots_are_not_given_again() -> None:
    before = IdRange(FIRST, 3 * SLOT)
    userns = before.allocate("a", [70_000])
    after = IdRange(FIRST, 3 * SLOT)
    after.note("a", userns)
    assert after.allocate("b", []).base == FIRST + 2 * SLOT


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("subuid", "somebody:131072:65536"),
        ("subgid", "somebody:1:4000000000"),
        ("passwd", "big:x:140000:1::/:/bin/sh"),
        ("group", "big:x:140000:"),
    ],
)
def test_ids_of_somebody_else(tmp_path: Path, file: str, line: str) -> None:
    check_range(131072, 65536, etc=str(tmp_path))
    (tmp_path / file).write_text(f"# words\nroot:x:0:0\n{line}\n")
    with pytest.raises(FailedPrecondition, match=f"{file}:3"):
        check_range(131072, 65536, etc=str(tmp_path))
    (tmp_path / file).write_text(line.replace("somebody", "wharfie").replace("140000", "5"))
    check_range(131072, 65536, etc=str(tmp_path))
