# SPDX-License-Identifier: Apache-2.0
"""The user's accounts, with real helper programs on PATH."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from wharfie.client import credentials
from wharfie.errdefs import FailedPrecondition, InvalidArgument

HELPER = """#!/bin/sh
# Keeps accounts as files in $STORE, one per server; says so in $STORE/calls.
key=$(cat | tee "$STORE/last-input" | tr -c 'A-Za-z0-9.\\n' _)
echo "$1 $key" >>"$STORE/calls"
case $1 in
get) [ -e "$STORE/$key" ] && cat "$STORE/$key" || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm -f "$STORE/$key" ;;
store) : ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("STORE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()
    helper = tmp_path / "bin/docker-credential-test"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    return tmp_path


def write(home: Path, config: Any) -> None:
    (home / "docker").mkdir(exist_ok=True)
    (home / "docker/config.json").write_text(config if isinstance(config, str) else json.dumps(config))


def decoded(header: list[tuple[str, str]]) -> Any:
    [(name, value)] = header
    assert name == "X-Registry-Auth"
    return json.loads(base64.urlsafe_b64decode(value))


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_without_a_file(home: Path) -> None:
    assert credentials.load_config() == {}
    assert credentials.auth_header("busybox") == []


def test_only_the_account_of_the_registry_is_sent(home: Path) -> None:
    write(
        home, {"auths": {"https://index.docker.io/v1/": auth("hub", "p:w"), "r.example:5000": auth("me", "äöü???>>>")}}
    )
    assert decoded(credentials.auth_header("library/busybox")) == {
        "username": "hub", "password": "p:w", "serveraddress": "https://index.docker.io/v1/",
    }  # fmt: skip
    assert decoded(credentials.auth_header("r.example:5000/a/b"))["password"] == "äöü???>>>"
    assert credentials.auth_header("other.example/a") == []
    assert credentials.auth_header("localhost/a") == []


@pytest.mark.parametrize("key", ["https://r.example", "http://r.example/v1/", "r.example"])
def test_old_keys(home: Path, key: str) -> None:
    write(home, {"auths": {key: auth("me", "pw")}})
    assert decoded(credentials.auth_header("r.example/x"))["username"] == "me"


def test_tokens(home: Path) -> None:
    write(home, {"auths": {"r.example": {**auth("me", ""), "identitytoken": "tok"}}})
    assert decoded(credentials.auth_header("r.example/x"))["identitytoken"] == "tok"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"auths":{"r.example":{"auth":"!!"}}}', '{"auths":{"r.example":{"auth":"bm9jb2xvbg=="}}}']
)
def test_broken_file(home: Path, text: str) -> None:
    write(home, text)
    with pytest.raises(InvalidArgument, match=r"config\.json"):
        credentials.auth_header("r.example/x")


def test_helper_is_asked_for_one_server_only(home: Path) -> None:
    write(home, {"credsStore": "test", "auths": {"r.example": auth("stale", "stale")}})
    (home / "r.example").write_text('{"ServerURL":"r.example","Username":"me","Secret":"s"}')
    assert decoded(credentials.auth_header("r.example/x")) == {
        "username": "me",
        "password": "s",
        "serveraddress": "r.example",
    }
    assert credentials.auth_header("other.example/x") == []
    assert (home / "calls").read_text().split("\n") == ["get r.example", "get other.example", ""]


def test_identity_token_of_a_helper(home: Path) -> None:
    write(home, {"credHelpers": {"r.example": "test"}})
    (home / "r.example").write_text('{"Username":"<token>","Secret":"tok"}')
    assert decoded(credentials.auth_header("r.example/x")) == {"identitytoken": "tok", "serveraddress": "r.example"}


def test_a_broken_helper_sends_nothing_else(home: Path) -> None:
    """CVE-2021-41092: with the helper missing, docker sent the Hub's account to the private registry."""
    write(home, {"credHelpers": {"r.example": "nosuch"}, "auths": {
        "https://index.docker.io/v1/": auth("hub", "secret"), "r.example": auth("me", "secret")}})  # fmt: skip
    with pytest.raises(FailedPrecondition, match="docker-credential-nosuch"):
        credentials.auth_header("r.example/x")
    assert decoded(credentials.auth_header("busybox"))["username"] == "hub"
    write(home, {"credsStore": "test"})
    (home / "r.example").write_text("garbage with s3cret")
    with pytest.raises(FailedPrecondition) as e:
        credentials.auth_header("r.example/x")
    assert "s3cret" not in str(e.value)
    write(home, {"credsStore": "../evil"})
    with pytest.raises(InvalidArgument, match="not a name"):
        credentials.auth_header("r.example/x")


def test_store_and_erase(home: Path) -> None:
    write(home, {"detachKeys": "ctrl-a", "auths": {}})
    where = credentials.store("r.example", {"username": "me", "password": "pw"})
    assert os.stat(where).st_mode & 0o777 == 0o600
    kept = json.loads(Path(where).read_text())
    assert kept == {"detachKeys": "ctrl-a", "auths": {"r.example": auth("me", "pw")}}
    assert credentials.account("r.example")["password"] == "pw"
    assert credentials.erase("r.example")
    assert not credentials.erase("r.example")
    assert json.loads(Path(where).read_text()) == {"detachKeys": "ctrl-a", "auths": {}}
    assert os.listdir(home / "docker") == ["config.json"]


def test_store_by_helper(home: Path) -> None:
    write(home, {"credsStore": "test"})
    assert credentials.store("docker.io", {"username": "me", "password": "pw"}) == "docker-credential-test"
    said = json.loads((home / "last-input").read_text())
    assert said == {"ServerURL": "https://index.docker.io/v1/", "Username": "me", "Secret": "pw"}
    assert "pw" not in (home / "docker/config.json").read_text()
