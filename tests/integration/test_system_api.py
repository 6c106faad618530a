# SPDX-License-Identifier: Apache-2.0
"""version, info, df, networks, auth: what clients ask an engine before they trust it."""

from __future__ import annotations

import base64
import json
import socket
import time
from pathlib import Path

import docker
import pytest

from harness.engine import Engine
from harness.registry import Registry, free_port

pytestmark = [pytest.mark.root]

CLIENTS = [p for p in ("/usr/local/bin/docker", "/usr/bin/docker") if Path(p).exists()]
HTPASSWD = "me:$2y$05$JgyZ2pSgBqMgFGCVv2nXYuMjN/rRCNtXMjAB7wiN2pWUDE8zM6A9y"
"""The bcrypt hash of "secret"."""


@pytest.mark.parametrize("cli", CLIENTS, ids=lambda p: p.split("/")[2])
def test_version_info_and_df(engine: Engine, busybox: str, cli: str) -> None:
    assert engine.out("version", "-f", "{{.Server.APIVersion}}", program=cli).startswith("1.")
    info = json.loads(engine.out("info", "-f", "{{json .}}", program=cli))
    assert info["ServerErrors" if "ServerErrors" in info else "Driver"]
    assert info["Driver"] == engine.api("GET", "/info")[1]["Driver"]
    assert info["CgroupVersion"] in {"1", "2"}
    assert info["DockerRootDir"] == str(engine.root)
    assert info["OSType"] == "linux"
    assert any("seccomp" in o for o in info["SecurityOptions"])
    engine.run("run", "--name", "counted", "-v", "counted:/v", busybox, "true", program=cli)
    counts = engine.out(
        "info", "-f", "{{.Containers}} {{.ContainersRunning}} {{.ContainersStopped}} {{.Images}}", program=cli
    )
    assert counts == "1 0 1 1"
    rows = engine.out("system", "df", "--format", "{{.Type}}:{{.TotalCount}}:{{.Active}}", program=cli).splitlines()
    assert {"Images:1:1", "Containers:1:0", "Local Volumes:1:1"} <= set(rows)
    assert "counted" in engine.out("system", "df", "-v", program=cli)
    engine.run("rm", "-v", "counted", program=cli)
    engine.run("volume", "rm", "counted", program=cli)


def test_id_stays(own_engine: Engine) -> None:
    before = own_engine.api("GET", "/info")[1]["ID"]
    own_engine.stop()
    own_engine.start()
    assert own_engine.api("GET", "/info")[1]["ID"] == before


def test_df_of_one_kind(engine: Engine) -> None:
    status, body = engine.api("GET", "/system/df?type=volume")
    assert (status, set(body)) == (200, {"Volumes"})
    assert engine.api("GET", "/system/df?type=nonsense")[0] == 400


@pytest.mark.parametrize("cli", CLIENTS, ids=lambda p: p.split("/")[2])
def test_networks(engine: Engine, busybox: str, cli: str) -> None:
    assert sorted(engine.out("network", "ls", "--format", "{{.Name}}", program=cli).splitlines()) == [
        "bridge",
        "host",
        "none",
    ]
    engine.run("run", "-d", "--name", "member", busybox, "sleep", "1000", program=cli)
    (network,) = json.loads(engine.out("network", "inspect", "bridge", program=cli))
    assert [c["Name"] for c in network["Containers"].values()] == ["member"]
    assert engine.api("GET", "/networks/nat")[1]["Name"] == "bridge"
    assert engine.api("GET", f"/networks/{network['Id'][:10]}")[1]["Name"] == "bridge"
    done = engine.run("network", "create", "mine", program=cli, check=False)
    assert done.returncode == 1
    assert b"mine" in done.stderr
    assert engine.api("POST", "/networks/create", {"Name": "mine"})[0] == 501
    assert engine.api("DELETE", "/networks/bridge")[0] == 403
    assert engine.api("GET", "/networks/nosuch")[0] == 404
    assert engine.api("POST", "/networks/bridge/connect", {"Container": "member"})[0] == 501
    engine.run("network", "prune", "-f", program=cli)


def test_login(engine: Engine, registry: Registry) -> None:
    protected = Registry(htpasswd=HTPASSWD)
    try:
        good = {"username": "me", "password": "secret", "serveraddress": protected.host}
        status, body = engine.api("POST", "/auth", good)
        assert (status, body["Status"]) == (200, "Login Succeeded")
        status, body = engine.api("POST", "/auth", {**good, "password": "hunter2"})
        assert status == 401
        assert "hunter2" not in json.dumps(body)
        engine.run("login", "-u", "me", "--password-stdin", protected.host, program=CLIENTS[0], stdin=b"secret")
        assert engine.run(
            "login", "-u", "me", "--password-stdin", protected.host, program=CLIENTS[0], stdin=b"no", check=False
        ).returncode
        for header, expected in ((good, 404), ({**good, "password": "hunter2"}, 401), ({}, 401)):
            value = base64.urlsafe_b64encode(json.dumps(header).encode()).decode()
            status, body = engine.api(
                "POST", f"/images/create?fromImage={protected.host}/x&tag=1", headers={"X-Registry-Auth": value}
            )
            assert status == expected, body
            assert protected.host in body["message"]
            assert "hunter2" not in json.dumps(body)
        assert engine.api("POST", "/images/create?fromImage=x", headers={"X-Registry-Auth": "%%%"})[0] == 400
        assert "hunter2" not in engine.log.read_text()
        assert "secret" not in engine.log.read_text()
    finally:
        protected.close()
    assert engine.api("POST", "/auth", {"serveraddress": "x"})[0] == 400
    status, body = engine.api("POST", "/auth", {**good, "serveraddress": f"127.0.0.1:{free_port()}"})
    assert status == 503


def test_search_says_what_it_cannot(engine: Engine) -> None:
    status, body = engine.api("GET", "/images/search?term=debian")
    assert status == 501
    assert body["hint"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/images/nosuch/json", 404),
        ("GET", "/images/nosuch/history", 404),
        ("GET", "/images/UPPER/json", 400),
        ("GET", "/images/nosuch/get", 404),
        ("GET", "/images/get", 400),
        ("DELETE", "/images/nosuch", 404),
        ("POST", "/images/nosuch/tag?repo=x", 404),
        ("POST", "/images/nosuch/push?tag=x", 404),
        ("POST", "/images/create", 400),
        ("POST", "/images/create?fromImage=Bad%20Name&tag=x", 400),
        ("POST", "/images/create?fromImage=x&tag=l&platform=nonsense/x/y/z", 400),
        ("POST", "/images/create?fromSrc=http://x/y", 501),
        ("GET", "/images/json?filters=%7B", 400),
        ("GET", "/images/json?filters=%7B%22dangling%22:%5B%22perhaps%22%5D%7D", 400),
        ("POST", "/commit?container=nosuch", 404),
        ("GET", "/containers/nosuch/changes", 404),
        ("GET", "/containers/nosuch/export", 404),
        ("GET", "/images/sha256:0123/json", 404),
    ],
)
def test_codes(engine: Engine, method: str, path: str, status: int) -> None:
    found, body = engine.api(method, path)
    assert found == status, body
    assert body["message"]
    assert "Traceback" not in body["message"]


def test_prune_of_everything(engine: Engine, busybox: str) -> None:
    engine.run("run", "--name", "old", "-v", "/anon", busybox, "true", program=CLIENTS[0])
    engine.run("system", "prune", "-f", "--volumes", program=CLIENTS[0])
    assert engine.out("ps", "-aq", program=CLIENTS[0]) == ""
    assert engine.out("volume", "ls", "-q", program=CLIENTS[0]) == ""
    assert engine.out("images", "-q", busybox, program=CLIENTS[0]) != ""
    assert engine.out("plugin", "ls", "-q", program=CLIENTS[0]) == ""
    assert engine.api("GET", "/nodes")[0] == 503
    assert engine.api("POST", "/build")[0] == 501


def test_tag_needs_a_good_name(engine: Engine, busybox: str) -> None:
    name = busybox.replace("/", "%2F")
    for query, status in (("", 400), ("repo=UPPER", 400), ("repo=x&tag=a/b", 400), (f"repo=x@sha256:{'0' * 64}", 400)):
        assert engine.api("POST", f"/images/{name}/tag?{query}")[0] == status, query


def test_a_body_that_comes_behind_its_head(engine: Engine) -> None:
    """Clients send head and body apart; whatever the gap, the request is answered."""
    body = b'{"Name":"Not/Good"}'
    head = b"POST /volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    for n in range(400):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(str(engine.socket))
            s.sendall(head)
            end = time.perf_counter() + (n % 20) * 25e-6
            while time.perf_counter() < end:
                pass
            s.sendall(body)
            assert s.recv(100).startswith(b"HTTP/1.1 400"), n


def test_docker_py(engine: Engine) -> None:
    client = docker.DockerClient(base_url=engine.host, version="auto")
    try:
        assert client.ping()
        assert client.version()["Components"][0]["Name"] == "Engine"
        assert [n.name for n in client.networks.list(names=["none"])] == ["none"]
    finally:
        client.close()
