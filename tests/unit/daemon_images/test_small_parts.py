# SPDX-License-Identifier: Apache-2.0
"""Paths of cp, modes of Go, volume options, credentials, times."""

from __future__ import annotations

import base64
import json
import stat

import pytest

from wharfie.daemon.services.archive_worker import go_mode, normal
from wharfie.daemon.services.credentials import decode_header, registry_of
from wharfie.daemon.services.images_list import parse_time, until_time
from wharfie.daemon.services.volumes_options import parse_local
from wharfie.errdefs import InvalidArgument, Unsupported


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("/", "/"), ("a", "/a"), ("/a/", "/a/"), ("/a/.", "/a/."), ("/a/../../b", "/b"), ("//a//b", "/a/b"), (".", "/."),
        ("/../..", "/"), ("a/./b/", "/a/b/"),
    ],
)  # fmt: skip
def test_normal(path: str, clean: str) -> None:
    assert normal(path) == clean


def test_go_mode() -> None:
    assert go_mode(stat.S_IFREG | 0o644) == 0o644
    assert go_mode(stat.S_IFDIR | 0o1777) == 1 << 31 | 1 << 20 | 0o777
    assert go_mode(stat.S_IFLNK | 0o777) == 1 << 27 | 0o777
    assert go_mode(stat.S_IFCHR | 0o600) == 1 << 26 | 1 << 21 | 0o600
    assert go_mode(stat.S_IFREG | 0o4755) == 1 << 23 | 0o755


def test_bind_volume() -> None:
    local = parse_local("v", {"type": "none", "o": "bind,ro", "device": "/a/../b"})
    assert local is not None
    assert local.is_bind
    assert (local.device, local.flags & 1) == ("/b", 1)


def test_tmpfs_and_nfs_volumes() -> None:
    local = parse_local("v", {"type": "tmpfs", "o": "size=1m,nosuid", "device": "tmpfs"})
    assert local is not None
    assert (local.fs_type, local.flags, local.data) == ("tmpfs", 2, "size=1m")
    nfs = parse_local("v", {"type": "nfs", "o": "addr=1.2.3.4,rw,nfsvers=4", "device": ":/x"})
    assert nfs is not None
    assert nfs.data == "addr=1.2.3.4,nfsvers=4"
    assert parse_local("v", {}) is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"what": "x"}, InvalidArgument),
        ({"type": "none", "o": "bind"}, InvalidArgument),
        ({"type": "none", "device": "/x"}, InvalidArgument),
        ({"type": "none", "o": "bind", "device": "relative"}, InvalidArgument),
        ({"type": "none", "o": "bind,nonsense", "device": "/x"}, InvalidArgument),
        ({"size": "1g", "type": "tmpfs", "device": "tmpfs"}, Unsupported),
    ],
)
def test_refused_volume_options(options: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_local("v", options)


def test_credentials_header() -> None:
    def header(document: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()

    found = decode_header(header({"username": "ü>?", "password": "p"}))
    assert found is not None
    assert (found.username, found.password) == ("ü>?", "p")
    assert decode_header(header({"username": "u", "password": "p"}).rstrip("=")) is not None
    assert decode_header("") is decode_header(header({})) is decode_header(header(None)) is None
    both = decode_header(header({"auth": base64.b64encode(b"u:p:q").decode()}))
    assert both is not None
    assert (both.username, both.password) == ("u", "p:q")
    with pytest.raises(InvalidArgument) as e:
        decode_header(base64.b64encode(b"secret word").decode())
    assert "secret" not in str(e.value)


@pytest.mark.parametrize(
    ("server", "registry"),
    [
        ("https://index.docker.io/v1/", "docker.io"), ("", "docker.io"), ("localhost:5000", "localhost:5000"),
        ("http://Reg.Example/v2/", "reg.example"),
    ],
)  # fmt: skip
def test_registry_of(server: str, registry: str) -> None:
    assert registry_of(server) == registry


def test_times() -> None:
    assert parse_time("1970-01-01T00:01:00Z") == 60
    assert parse_time("1970-01-01T01:00:00.5+01:00") == 0.5
    assert parse_time("nonsense") == parse_time(None) == parse_time("2026-13-45T00:00:00Z") == 0
    assert until_time("60") == 60
    assert until_time("1970-01-02") == 86400
    with pytest.raises(InvalidArgument):
        until_time("someday")
