# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PT018
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wharfie.shim.detach import DetachKeys


@pytest.mark.parametrize(
    ("keys", "typed", "passed", "detached"),
    [
        (b"\x10\x11", b"ab\x10\x11rest", b"ab", True),
        (b"\x10\x11", b"a\x10b", b"a\x10b", False),
        (b"\x10\x11", b"\x10\x10\x11", b"\x10", True),
        (b"aab", b"aaab", b"a", True),
        (b"", b"\x10\x11", b"\x10\x11", False),
        (b"x", b"abx", b"ab", True),
    ],
)
def test_scan(keys, typed, passed, detached):
    assert DetachKeys(keys).scan(typed) == (passed, detached)


@given(
    st.binary(max_size=30).map(lambda b: bytes(97 + c % 3 for c in b)),
    st.sampled_from([b"ab", b"aab", b"abab", b"aaa"]),
)
def test_the_first_occurrence_detaches_however_it_is_cut(typed, keys):
    scanner = DetachKeys(keys)
    passed, found = b"", False
    for byte in typed:
        out, found = scanner.scan(bytes([byte]))
        passed += out
        if found:
            break
    at = typed.find(keys)
    assert found == (at >= 0)
    if found:
        assert passed == typed[:at]
    else:
        held = typed[len(passed) :]
        assert typed.startswith(passed) and keys.startswith(held)
