# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from wharfie.client.address import parse, resolve
from wharfie.client.connect import connect
from wharfie.errdefs import InvalidArgument, Unavailable, Unsupported


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WHARFIE_HOST", "DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_TLS"):
        monkeypatch.delenv(name, raising=False)


def test_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve().is_default
    assert str(resolve()) == "unix:///run/wharfie/wharfie.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///d")
    assert str(resolve()) == "unix:///d"
    monkeypatch.setenv("WHARFIE_HOST", "unix:///w")
    assert (str(resolve()), resolve().is_default) == ("unix:///w", False)
    assert str(resolve("tcp://h:1")) == "tcp://h:1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("/x.sock", "unix:///x.sock"), ("host", "tcp://host:2375"), ("tcp://[::1]:99", "tcp://::1:99"), ("tcp://:5", "tcp://127.0.0.1:5"),
     ("https://h", "tcp://h:2376")],
)  # fmt: skip
def test_forms(text: str, expected: str) -> None:
    assert str(parse(text)) == expected


@pytest.mark.parametrize("text", ["unix://", "tcp://h:x", "gopher://h"])
def test_malformed(text: str) -> None:
    with pytest.raises(InvalidArgument, match="engine address"):
        parse(text)


def test_ssh_is_refused() -> None:
    with pytest.raises(Unsupported, match="ssh"):
        parse("ssh://me@host")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no such file") as e:
        connect(parse(f"unix://{tmp_path}/none.sock"))
    assert "wharfied" in str(e.value.hint)
