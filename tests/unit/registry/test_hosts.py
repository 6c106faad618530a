# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from wharfie.errdefs import InvalidArgument
from wharfie.registry.hosts import Host, example_path, hosts_for, is_loopback


def write(root: Path, name: str, text: str) -> str:
    (root / name).mkdir(parents=True)
    (root / name / "hosts.toml").write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("registry", "base"),
    [
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("quay.io", "https://quay.io/v2"),
        ("localhost", "http://localhost/v2"),
        ("localhost:5000", "http://localhost:5000/v2"),
        ("127.8.9.1:80", "http://127.8.9.1:80/v2"),
        ("[::1]:5000", "http://[::1]:5000/v2"),
        ("localhost.example:5000", "https://localhost.example:5000/v2"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000/v2"),
    ],
)
def test_without_configuration(registry: str, base: str, tmp_path: Path) -> None:
    (host,) = hosts_for(registry, (str(tmp_path),))
    assert host.base == base
    assert host.own


def test_loopback_is_not_a_name_that_looks_so() -> None:
    assert not is_loopback("127.0.0.1.example.com")
    assert not is_loopback("localhost.evil")


def test_mirrors_come_first_and_get_no_credentials(tmp_path: Path) -> None:
    directory = write(tmp_path, "docker.io", """
        server = "https://registry-1.docker.io"
        [host."https://mirror.example/proxy"]
          capabilities = ["pull", "resolve"]
          [host."https://mirror.example/proxy".header]
            x-one = "1"
            x-two = ["2", "3"]
        [host."http://lan:5000/other"]
          override_path = true
          capabilities = "pull"
          dial_timeout = "500ms"
    """)  # fmt: skip
    first, second, own = hosts_for("docker.io", (directory,))
    assert (first.base, first.own) == ("https://mirror.example/proxy/v2", False)
    assert first.capabilities == {"pull", "resolve"}
    assert first.headers == (("x-one", "1"), ("x-two", "2"), ("x-two", "3"))
    assert second.base == "http://lan:5000/other"
    assert second.connect_timeout_s == 0.5
    assert (own.base, own.own) == ("https://registry-1.docker.io/v2", True)
    assert "push" in own.capabilities


def test_certificates(tmp_path: Path) -> None:
    directory = write(tmp_path, "r.example:8443", """
        ca = ["ca.pem", "/etc/other.pem"]
        client = [["c.pem", "c.key"], ["both.pem"]]
        skip_verify = true
    """)  # fmt: skip
    (host,) = hosts_for("r.example:8443", (directory,))
    base = f"{tmp_path}/r.example:8443"
    assert host.tls.ca == (f"{base}/ca.pem", "/etc/other.pem")
    assert host.tls.client == ((f"{base}/c.pem", f"{base}/c.key"), (f"{base}/both.pem", ""))
    assert host.tls.skip_verify


def test_where_it_is_looked_for(tmp_path: Path) -> None:
    late = write(tmp_path / "late", "_default", 'server = "https://default.example"')
    assert hosts_for("a.example:1", (late,))[0].authority == "default.example"
    under = write(tmp_path / "under", "a.example_1_", 'server = "https://under.example"')
    assert hosts_for("a.example:1", (under, late))[0].authority == "under.example"
    exact = write(tmp_path / "exact", "a.example:1", 'server = "https://exact.example"')
    assert hosts_for("a.example:1", (exact, under, late))[0].authority == "exact.example"
    assert example_path("a.example:1", (exact,)) == f"{exact}/a.example:1/hosts.toml"


def test_dockers_certificate_directory(tmp_path: Path) -> None:
    directory = tmp_path / "r.example"
    directory.mkdir()
    for name in ("ca.crt", "client.cert", "client.key", "README"):
        (directory / name).write_text("")
    (host,) = hosts_for("r.example", (str(tmp_path),))
    assert host.tls.ca == (f"{directory}/ca.crt",)
    assert host.tls.client == ((f"{directory}/client.cert", f"{directory}/client.key"),)
    (directory / "client.key").unlink()
    with pytest.raises(InvalidArgument, match="no key"):
        hosts_for("r.example", (str(tmp_path),))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("server = 5", "server is a URL"),
        ("not toml", "Expected"),
        ('server = "ftp://x"', "is not http"),
        ('server = "https://u:p@x"', "is not http"),
        ('[host."https://x"]\nskip_verfy = true', "unknown key 'skip_verfy'"),
        ('[host."https://x"]\ncapabilities = ["delete"]', "unknown capability"),
        ("ca = [1]", "is not a string"),
        ("client = [[1]]", "is not a string"),
        ('dial_timeout = "soon"', "is not a time"),
        ("host = 1", "host a table"),
        ("[host]\nx = 1", "is not a table"),
    ],
)
def test_bad_files_are_named(text: str, why: str, tmp_path: Path) -> None:
    directory = write(tmp_path, "r.example", text)
    with pytest.raises(InvalidArgument, match=why) as e:
        hosts_for("r.example", (directory,))
    assert "r.example/hosts.toml" in e.value.message


def test_hosts_are_values() -> None:
    assert Host("a", "https", "a") == Host("a", "https", "a")
    assert hash(Host("a", "https", "a"))
