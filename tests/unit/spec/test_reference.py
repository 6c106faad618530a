# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wharfie.errdefs import InvalidArgument
from wharfie.spec.reference import parse_reference

CORPUS = json.loads((Path(__file__).parents[2] / "golden/references.json").read_text())
DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize("text", CORPUS["good"])
def test_good(text: str) -> None:
    assert list(parse_reference(text)) == CORPUS["good"][text]


@pytest.mark.parametrize("text", CORPUS["bad"], ids=ascii)
def test_bad(text: str) -> None:
    with pytest.raises(InvalidArgument) as e:
        parse_reference(text)
    assert e.value.hint


def test_too_long() -> None:
    assert parse_reference("a" * 63 + "/" + "b" * 181)
    with pytest.raises(InvalidArgument):
        parse_reference("x.io/" + "b" * 251)
    with pytest.raises(InvalidArgument):
        parse_reference("a:" + "t" * 129)


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("docker.io/library/debian:latest", "debian:latest"),
        ("docker.io/library/a/b", "library/a/b:latest"),
        ("docker.io/user/x", "user/x:latest"),
        ("quay.io/library/x", "quay.io/library/x:latest"),
        (f"debian@{DIGEST}", f"debian@{DIGEST}"),
    ],
)
def test_familiar(text: str, familiar: str) -> None:
    assert parse_reference(text).familiar() == familiar


def test_no_default_tag() -> None:
    assert parse_reference("debian", default_tag=None).tag is None


part = st.from_regex(r"[a-z0-9]+((\.|_|__|-{1,3})[a-z0-9]+){0,2}", fullmatch=True)
paths = st.lists(part, min_size=1, max_size=4).map("/".join)
domains = st.sampled_from(["", "localhost/", "localhost:5000/", "x.io/", "10.0.0.1:1/", "[::1]:5/", "docker.io/"])
tags = st.from_regex(r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,10})?", fullmatch=True)


@given(domains, paths, tags, st.sampled_from(["", "@" + DIGEST]))
def test_what_is_printed_parses_to_the_same(domain: str, path: str, tag: str, digest: str) -> None:
    try:
        first = parse_reference(domain + path + tag + digest)
    except InvalidArgument:
        assert len(path) >= 64  # an image id is the only well-formed text that is refused
        return
    assert parse_reference(str(first)) == first
    assert parse_reference(first.familiar()) == first


@given(st.text(max_size=60))
def test_nothing_dangerous_passes(text: str) -> None:
    try:
        ref = parse_reference(text)
    except InvalidArgument:
        return
    assert ".." not in ref.path.split("/")
    assert not ref.path.startswith("/")
    assert str(ref).isascii()
