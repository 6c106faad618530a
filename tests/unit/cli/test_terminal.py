# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from wharfie.cli.terminal import KeyWatch, keys
from wharfie.errdefs import InvalidArgument


def test_keys() -> None:
    assert keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert keys("ctrl-@,a,ctrl-\\,ctrl-[") == b"\x00a\x1c\x1b"
    for bad in ("", "ctrl-", "ctrl-P", "ctrl-1", "ab", "a,,b"):
        with pytest.raises(InvalidArgument, match="unknown key"):
            keys(bad)


def test_sequence_is_found_byte_by_byte() -> None:
    watch = KeyWatch(b"\x10\x11")
    assert watch.feed(b"ab\x10") == b"ab"
    assert not watch.found
    assert watch.feed(b"\x11rest") == b""
    assert watch.found


def test_a_false_start_is_passed_on() -> None:
    watch = KeyWatch(b"\x10\x11")
    assert watch.feed(b"\x10") == b""
    assert watch.feed(b"\x10") == b"\x10"
    assert watch.feed(b"x") == b"\x10x"
    assert not watch.found
