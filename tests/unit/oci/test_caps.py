# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from wharfie.errdefs import FailedPrecondition, InvalidArgument
from wharfie.oci.caps import ALL_CAPS, DEFAULT_CAPS, capability_name, capability_sets, effective_caps

EVERYTHING = frozenset(ALL_CAPS)


def test_bits_are_the_kernels() -> None:
    header = Path("/usr/include/linux/capability.h")
    for line in header.read_text().splitlines() if header.exists() else ():
        words = line.split()
        if len(words) == 3 and words[1] in EVERYTHING and words[2].isdigit():
            assert ALL_CAPS.index(words[1]) == int(words[2])
    assert len(ALL_CAPS) >= int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1


@pytest.mark.parametrize("word", ["net_admin", "NET_ADMIN", "CAP_NET_ADMIN", "cap_net_admin"])
def test_spellings(word: str) -> None:
    assert capability_name(word) == "CAP_NET_ADMIN"


@pytest.mark.parametrize("word", ["", "NET", "CAP_", "ALL ", "CAP_CAP_CHOWN"])
def test_unknown_names(word: str) -> None:
    with pytest.raises(InvalidArgument):
        capability_name(word)


def caps(
    add: list[str], drop: list[str], *, privileged: bool = False, available: frozenset[str] | None = None
) -> set[str]:
    return set(effective_caps(add, drop, privileged=privileged, available=available))


def test_add_and_drop() -> None:
    assert caps([], []) == DEFAULT_CAPS
    assert caps(["sys_time"], ["CHOWN"]) == DEFAULT_CAPS - {"CAP_CHOWN"} | {"CAP_SYS_TIME"}
    assert caps(["CHOWN"], ["all"]) == {"CAP_CHOWN"}
    assert caps(["ALL"], ["SYS_ADMIN"]) == EVERYTHING - {"CAP_SYS_ADMIN"}
    assert caps(["ALL"], ["ALL"]) == set()
    assert caps(["CHOWN"], ["CHOWN"]) == DEFAULT_CAPS


def test_privileged_keeps_what_was_dropped_away() -> None:
    assert caps([], [], privileged=True) == EVERYTHING
    assert caps([], ["SYS_MODULE"], privileged=True) == EVERYTHING - {"CAP_SYS_MODULE"}
    assert caps([], ["ALL"], privileged=True) == set()


def test_the_host_gives_what_it_has() -> None:
    host = EVERYTHING - {"CAP_SYS_RESOURCE", "CAP_MKNOD"}
    assert caps(["ALL"], [], available=host) == host
    assert caps([], [], privileged=True, available=host) == host
    assert caps([], [], available=host) == DEFAULT_CAPS - {"CAP_MKNOD"}
    with pytest.raises(FailedPrecondition, match="CAP_SYS_RESOURCE") as e:
        caps(["SYS_RESOURCE"], [], available=host)
    assert e.value.hint


def test_sets_leave_inheritable_empty() -> None:
    """CVE-2022-24769."""
    root = capability_sets(["CAP_CHOWN"], uid=0)
    assert root.bounding == root.effective == root.permitted == ["CAP_CHOWN"]
    assert root.inheritable == root.ambient == []
    user = capability_sets(["CAP_CHOWN"], uid=1000)
    assert user.bounding == ["CAP_CHOWN"]
    assert user.effective == user.permitted == user.inheritable == user.ambient == []
