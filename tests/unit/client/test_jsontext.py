# SPDX-License-Identifier: Apache-2.0
"""Against the standard library's json, which this module exists to avoid importing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wharfie.client import jsontext

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_round_trip(value: Any) -> None:
    text = jsontext.dumps(value)
    assert json.loads(text) == value
    assert jsontext.loads(text.encode()) == value
    assert jsontext.loads(f" \n{json.dumps(value, indent=1)}\t ") == value
    assert json.loads(jsontext.dumps_pretty(value)) == value
    assert json.loads(jsontext.dumps_readable(value)) == value


@given(JSON)
def test_pretty_is_json_indent_4(value: Any) -> None:
    assert jsontext.dumps_pretty(value) == json.dumps(value, indent=4, ensure_ascii=False)


@pytest.mark.parametrize("text", ["", " ", "{", "[1,]", "nope", "1 2", "{'a':1}", "NaN", '"\n"', "[" * 5])
def test_refused(text: str) -> None:
    with pytest.raises(ValueError):
        jsontext.loads(text)


def test_not_utf8() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        jsontext.loads(b'"\xff"')
