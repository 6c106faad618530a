# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wharfie.registry import Credentials
from wharfie.registry.auth import Challenge, TokenCache, _same_owner, parse_challenges


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Basic realm="x"', [Challenge("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/t?x=1,2",service="s",scope="repository:a:pull,push"',
            [Challenge("bearer", {"realm": "https://a/t?x=1,2", "service": "s", "scope": "repository:a:pull,push"})],
        ),
        ('BEARER Realm=token , service = "s"', [Challenge("bearer", {"realm": "token", "service": "s"})]),
        ('Basic realm="a \\"b\\""', [Challenge("basic", {"realm": 'a "b"'})]),
        ("Negotiate", [Challenge("negotiate", {})]),
        (
            'Basic realm="x", Bearer realm="y"',
            [Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y"})],
        ),
        ("", []),
        ("=,=", []),
    ],
)
def test_parse_challenges(header: str, found: list[Challenge]) -> None:
    assert parse_challenges(header) == found


@given(st.text(max_size=80))
def test_parse_challenges_ends(header: str) -> None:
    for c in parse_challenges(header):
        assert c.scheme


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("registry-1.docker.io", "auth.docker.io", True),
        ("registry.gitlab.com", "gitlab.com", True),
        ("gitlab.com", "registry.gitlab.com", True),
        ("ghcr.io", "ghcr.io", True),
        ("a.example.com", "b.example.org", False),
        ("a.co.uk", "b.co.uk", False),
        ("x.a.co.uk", "y.a.co.uk", True),
        ("com", "evil.com", False),
        ("localhost", "evil.localhost", False),
        ("10.0.0.1", "20.0.0.1", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("evil-docker.io", "auth.docker.io", False),
    ],
)
def test_same_owner(a: str, b: str, same: bool) -> None:
    assert _same_owner(a, b) == same


def test_credentials_do_not_print() -> None:
    c = Credentials("user", "s3cret", "identity", "token")
    assert repr(c) == str(c) == "Credentials(username='user')"
    assert not Credentials()
    assert Credentials(identity_token="x")


def test_tokens_expire() -> None:
    cache = TokenCache()
    cache.put(("a",), "t", 3600)
    assert cache.get(("a",)) == "t"
    cache.forget(("a",))
    assert cache.get(("a",)) is None
    cache.put(("b",), "t", 0)
    assert cache.get(("b",)) == "t"  # a second at least, or a slow registry would ask for ever
