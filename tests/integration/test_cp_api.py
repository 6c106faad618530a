# SPDX-License-Identifier: Apache-2.0
"""cp by two docker CLIs and by HTTP: what goes in comes out, running or stopped, and nothing leaves the container."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import stat
import tarfile
import urllib.parse
from pathlib import Path
from typing import Any

import docker
import pytest
import zstandard

from harness import images
from harness.engine import Engine, UnixConnection
from harness.registry import Registry

pytestmark = [pytest.mark.root]

CLIENTS = [p for p in ("/usr/local/bin/docker", "/usr/bin/docker") if Path(p).exists()]
DOCKER = CLIENTS[0]


@pytest.fixture(params=["running", "stopped", "created"])
def container(request: pytest.FixtureRequest, engine: Engine, busybox: str) -> str:
    name = f"c-{request.param}"
    engine.run(
        "create", "--name", name, "-v", f"vol-{request.param}:/vol", "-v", f"{engine.base}:/ro:ro", busybox, "sleep", "1000",
        program=DOCKER,
    )  # fmt: skip
    if request.param != "created":
        engine.run("start", name, program=DOCKER)
    if request.param == "stopped":
        engine.run("stop", "-t", "0", name, program=DOCKER)
    yield name
    engine.remove_containers()
    engine.run("volume", "rm", f"vol-{request.param}", program=DOCKER)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub/empty").mkdir(parents=True)
    (top / "file").write_bytes(os.urandom(300_000))
    (top / "exec").write_text("#!/bin/sh\n")
    (top / "exec").chmod(0o4755)
    (top / "link").symlink_to("file")
    (top / "dangling").symlink_to("/no/such")
    os.link(top / "file", top / "hard")
    (top / "sub/ünïcode and spaces").write_text("x")
    (top / ("long" * 50)).write_text("long")
    (top / "secret").write_text("s")
    (top / "secret").chmod(0o600)
    os.chown(top / "secret", 1000, 2000)
    os.utime(top / "exec", (1_500_000_000, 1_500_000_000))
    (top / "sub").chmod(0o2711)
    return top


def snapshot(top: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(top.rglob("*")):
        s = path.lstat()
        name = str(path.relative_to(top))
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[name] = (s.st_mode, s.st_uid, s.st_gid, s.st_nlink if path.is_file() else 1, content)
        if not path.is_symlink() and path.is_file():
            found[name] += (int(s.st_mtime),)
    return found


def without_owners(found: dict[str, Any]) -> dict[str, Any]:
    return {name: (v[0], *v[3:]) for name, v in found.items()}


@pytest.mark.parametrize("cli", CLIENTS, ids=lambda p: p.split("/")[2])
def test_there_and_back(engine: Engine, container: str, tree: Path, tmp_path: Path, cli: str) -> None:
    for where in ("/root", "/vol"):
        engine.run("cp", str(tree), f"{container}:{where}/", program=cli)
        back = tmp_path / f"back-{where[1:]}"
        engine.run("cp", "-a", f"{container}:{where}/tree", str(back), program=cli)
        assert without_owners(snapshot(back)) == without_owners(snapshot(tree)), "clients own what they copy out"
        raw = engine.run("cp", f"{container}:{where}/tree", "-", program=cli).stdout
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            found = tar.getmember("tree/secret")
            assert (found.uid, found.gid, found.mode) == (1000, 2000, 0o600)
    if container == "c-stopped":
        engine.run("start", container, program=cli)
        out = engine.out("exec", container, "stat", "-c", "%u:%g %a", "/root/tree/secret", program=cli)
        assert out == "1000:2000 600"


def test_every_form_of_source_and_target(engine: Engine, container: str, tree: Path, tmp_path: Path) -> None:
    """The table of `docker cp`: file or directory, to what is there or not, with and without `/.`."""

    def cp(source: str, target: str) -> int:
        return engine.run("cp", source, target, program=DOCKER, check=False).returncode

    def get(path: str) -> bytes | None:
        done = engine.run("cp", f"{container}:{path}", "-", program=DOCKER, check=False)
        if done.returncode:
            return None
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            member = next(iter(tar))
            return tar.extractfile(member).read() if member.isfile() else b"dir"  # type: ignore[union-attr]

    data = (tree / "file").read_bytes()
    assert cp(f"{tree}/file", f"{container}:/new") == 0
    assert get("/new") == data
    assert cp(f"{tree}/secret", f"{container}:/new") == 0
    assert get("/new") == b"s"
    assert cp(f"{tree}/file", f"{container}:/missing/") != 0
    assert cp(f"{tree}/file", f"{container}:/tmp") == 0
    assert get("/tmp/file") == data
    assert cp(f"{tree}/sub", f"{container}:/newdir") == 0
    assert get("/newdir/empty") == b"dir"
    assert cp(f"{tree}/sub", f"{container}:/newdir") == 0
    assert get("/newdir/sub/empty") == b"dir"
    assert cp(f"{tree}/sub/.", f"{container}:/tmp") == 0
    assert get("/tmp/empty") == b"dir"
    assert cp(f"{tree}/sub", f"{container}:/etc/passwd") != 0
    assert cp(f"{container}:/etc/passwd", f"{tmp_path}/passwd") == 0
    assert (tmp_path / "passwd").read_text().startswith("root:")
    assert cp(f"{container}:/etc/.", f"{tmp_path}/etc") == 0
    assert (tmp_path / "etc/passwd").exists()
    assert cp(f"{container}:/nosuch", f"{tmp_path}/x") != 0
    assert cp(f"{tree}/link", f"{container}:/alink") == 0
    assert engine.run("cp", "-L", f"{container}:/alink", f"{tmp_path}/l", program=DOCKER, check=False).returncode != 0
    assert engine.run("cp", "-L", f"{tree}/link", f"{container}:/followed", program=DOCKER, check=False).returncode == 0
    assert get("/followed") == data


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/etc", ["etc", "etc/group", "etc/passwd"]),
        ("/etc/", ["etc", "etc/group", "etc/passwd"]),
        ("/etc/.", [".", "./group", "./passwd"]),
        ("/etc/passwd", ["passwd"]),
        ("/tmp/../etc/passwd", ["passwd"]),
        ("/link", ["link"]),
        ("/link/", ["link", "link/group", "link/passwd"]),
        ("/link/.", [".", "./group", "./passwd"]),
    ],
)
def test_names_in_the_archive(engine: Engine, busybox: str, path: str, names: list[str]) -> None:
    """As dockerd names them: clients rename by these."""
    engine.run("create", "--name", "n", busybox, program=DOCKER)
    assert put(engine, "n", "/", images.make_tar({"link": ("link", "/etc")}))[0] == 200
    connection = UnixConnection(str(engine.socket))
    connection.request("GET", f"/containers/n/archive?{urllib.parse.urlencode({'path': path})}")
    with tarfile.open(fileobj=io.BytesIO(connection.getresponse().read())) as tar:
        assert [m for m in sorted(tar.getnames()) if not m.endswith(("hosts", "hostname", "resolv.conf"))] == names
    connection.close()


def put(engine: Engine, name: str, path: str, body: bytes, **query: str) -> tuple[int, Any]:
    q = urllib.parse.urlencode({"path": path, **query})
    return engine.api("PUT", f"/containers/{name}/archive?{q}", body, headers={"Content-Type": "application/x-tar"})


def head(engine: Engine, name: str, path: str) -> tuple[int, dict[str, Any]]:
    connection = UnixConnection(str(engine.socket))
    try:
        connection.request("HEAD", f"/containers/{name}/archive?{urllib.parse.urlencode({'path': path})}")
        answer = connection.getresponse()
        answer.read()
        value = answer.headers.get("X-Docker-Container-Path-Stat", "")
        return answer.status, json.loads(base64.b64decode(value)) if value else {}
    finally:
        connection.close()


def test_stat_header(engine: Engine, container: str) -> None:
    status, found = head(engine, container, "/etc/passwd")
    assert (status, found["name"], found["mode"], found["linkTarget"]) == (200, "passwd", 0o644, "")
    assert found["mtime"] == "2023-11-14T22:13:20Z"
    assert head(engine, container, "/tmp")[1]["mode"] == 1 << 31 | 1 << 20 | 0o777
    entries = {"l1": ("link", "/l2"), "l2": ("link", "etc/passwd"), "loop": ("link", "loop")}
    assert put(engine, container, "/", images.make_tar(entries))[0] == 200
    status, found = head(engine, container, "/l1")
    assert found["mode"] & 1 << 27
    assert found["linkTarget"] == "/etc/passwd"
    assert head(engine, container, "/loop")[0] == 200
    assert head(engine, container, "/loop/x")[0] == 400
    assert head(engine, container, "/nosuch")[0] == 404
    assert head(engine, "nosuch", "/")[0] == 404
    assert engine.api("GET", f"/containers/{container}/archive")[0] == 400


@pytest.mark.parametrize(
    "pack",
    [lambda t: t, gzip.compress, bz2.compress, lzma.compress, zstandard.compress],
    ids=["plain", "gzip", "bzip2", "xz", "zstd"],
)
def test_put_takes_every_compression(engine: Engine, busybox: str, pack: Any) -> None:
    engine.run("run", "-d", "--name", "p", busybox, "sleep", "1000", program=DOCKER)
    assert put(engine, "p", "/tmp", pack(images.make_tar({"f": b"packed"}))) == (200, None)
    assert engine.out("exec", "p", "cat", "/tmp/f", program=DOCKER) == "packed"


def test_put_options_and_errors(engine: Engine, container: str) -> None:
    tar = images.make_tar({"d": ("dir", 0o755), "d/f": b"x"})
    assert put(engine, container, "/nosuch", tar)[0] == 404
    assert put(engine, container, "/etc/passwd", tar)[0] == 400
    status, body = put(engine, container, "/ro", tar)
    assert status == 403
    assert "read-only" in body["message"]
    assert put(engine, container, "/tmp", tar)[0] == 200
    clash = images.make_tar({"d": b"now a file"})
    status, body = put(engine, container, "/tmp", clash, noOverwriteDirNonDir="1")
    assert status == 400
    assert "cannot overwrite directory" in body["message"]
    assert put(engine, container, "/tmp", clash)[0] == 200
    assert head(engine, container, "/tmp/d")[1]["mode"] == 0o644
    for bad in (b"rubbish" * 1000, tar[:700], b"\x1f\x8bxxxx", images.make_tar({"../../x": b"y"})):
        status, body = put(engine, container, "/tmp", bad)
        assert status == 400, body
    assert put(engine, container, "/tmp", b"")[0] == 200
    assert put(engine, "nosuch", "/tmp", tar)[0] == 404


def test_copy_uid_gid(engine: Engine, busybox: str) -> None:
    engine.run("run", "-d", "--name", "u", "-u", "user", busybox, "sleep", "1000", program=DOCKER)
    tar = images.make_tar({"own": b"x"})
    assert put(engine, "u", "/tmp", tar, copyUIDGID="1")[0] == 200
    assert engine.out("exec", "u", "stat", "-c", "%u:%g", "/tmp/own", program=DOCKER) == "1000:1000"
    info = tarfile.TarInfo("far")
    info.uid = 3_000_000
    status, body = put(engine, "u", "/tmp", images.make_tar({"far": (info, b"")}))
    assert status == 400
    assert "3000000" in body["message"]


def test_read_only_root(engine: Engine, busybox: str) -> None:
    engine.run("run", "-d", "--name", "r", "--read-only", "-v", "rw:/w", busybox, "sleep", "1000", program=DOCKER)
    tar = images.make_tar({"f": b"x"})
    for state in ("running", "stopped"):
        status, body = put(engine, "r", "/root", tar)
        assert (status, "read-only" in body["message"]) == (403, True), state
        assert put(engine, "r", "/w", tar)[0] == 200
        engine.run("stop", "-t", "0", "r", program=DOCKER)
    engine.remove_containers()
    engine.run("volume", "rm", "rw", program=DOCKER)


def test_devices_fifos_and_sockets(engine: Engine, busybox: str) -> None:
    script = "mkfifo /root/p; nc -lU /root/s & sleep 0.2; sleep 1000"
    engine.run("run", "-d", "--name", "n", busybox, "sh", "-c", "mknod /root/p p; sleep 1000", program=DOCKER)
    del script
    for _ in range(100):
        if engine.run("exec", "n", "test", "-p", "/root/p", program=DOCKER, check=False).returncode == 0:
            break
    raw = engine.run("cp", "n:/root", "-", program=DOCKER).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert tar.getmember("root/p").isfifo()
    raw = engine.run("cp", "n:/dev/null", "-", program=DOCKER).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert tar.getmember("null").ischr()


def test_large_file_and_early_leave(engine: Engine, busybox: str, tmp_path: Path) -> None:
    engine.run(
        "run",
        "-d",
        "--name",
        "big",
        busybox,
        "sh",
        "-c",
        "dd if=/dev/zero of=/root/z bs=1M count=64; sleep 1000",
        program=DOCKER,
    )
    for _ in range(200):
        done = engine.run("exec", "big", "stat", "-c", "%s", "/root/z", program=DOCKER, check=False)
        if done.stdout.strip() == str(64 << 20).encode():
            break
    engine.run("cp", "big:/root/z", f"{tmp_path}/z", program=DOCKER)
    assert (tmp_path / "z").stat().st_size == 64 << 20
    engine.run("cp", f"{tmp_path}/z", "big:/root/again", program=DOCKER)
    assert engine.out("exec", "big", "stat", "-c", "%s", "/root/again", program=DOCKER) == str(64 << 20)
    connection = UnixConnection(str(engine.socket))
    connection.request("GET", "/containers/big/archive?path=/root/z")
    connection.getresponse().read(1000)
    connection.close()
    connection = UnixConnection(str(engine.socket))
    connection.putrequest("PUT", "/containers/big/archive?path=/root")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()
    connection.send(images.make_tar({"cut": b"x" * 100_000})[:50_000])
    connection.close()
    assert engine.api("GET", "/_ping")[0] == 200


def test_cve_2026_17106_links_in_archives(engine: Engine, container: str) -> None:
    before = set(os.listdir("/"))
    evil = images.make_tar({"esc": ("link", "/../../../.."), "esc/wharfie-was-here": b"x"})
    put(engine, container, "/tmp", evil)
    hard = images.make_tar({"h": ("hard", "../../../../etc/shadow")})
    assert put(engine, container, "/tmp", hard)[0] == 400
    through = images.make_tar({"abs": ("link", "/etc"), "abs/passwd": b"replaced"})
    put(engine, container, "/tmp", through)
    assert set(os.listdir("/")) == before
    assert "replaced" not in Path("/etc/passwd").read_text()


def test_cve_2026_41567_decompressors_of_the_container(engine: Engine, registry: Registry) -> None:
    trap = ("exec", b"#!/bin/sh\ntouch /PWNED\n")
    tree = {f"{d}/{p}": trap for d in ("bin", "usr/bin") for p in ("xz", "unpigz", "gzip", "bzip2", "zstd")}
    ref = images.Image([images.busybox_tar(), images.make_tar(tree)]).push(registry.host, "unpackers")
    engine.run("pull", "-q", ref)
    engine.run("run", "-d", "--name", "trap", ref, "sleep", "1000", program=DOCKER)
    tar = images.make_tar({"f": b"x"})
    for body in (gzip.compress(tar), lzma.compress(tar), bz2.compress(tar), zstandard.compress(tar)):
        assert put(engine, "trap", "/tmp", body)[0] == 200
    assert engine.run("exec", "trap", "test", "-e", "/PWNED", program=DOCKER, check=False).returncode == 1
    engine.remove_containers()
    engine.run("rmi", ref)


def test_cve_2021_41089_modes_of_host_files(engine: Engine, container: str) -> None:
    before = {p: stat.S_IMODE(os.stat(p).st_mode) for p in ("/", "/etc", "/tmp", "/etc/passwd")}
    tar = images.make_tar({"etc": ("dir", 0o777), "etc/passwd": b"x", "tmp": ("dir", 0o700)})
    assert put(engine, container, "/", tar)[0] == 200
    assert {p: stat.S_IMODE(os.stat(p).st_mode) for p in before} == before


def test_docker_py(engine: Engine, busybox: str) -> None:
    client = docker.DockerClient(base_url=engine.host, version="auto")
    try:
        container = client.containers.run(busybox, "sleep 1000", detach=True)
        assert container.put_archive("/tmp", images.make_tar({"py": b"from python"}))
        chunks, info = container.get_archive("/tmp/py")
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
            member = tar.extractfile("py")
            assert member
            assert member.read() == b"from python"
        assert info["size"] == 11
        with pytest.raises(docker.errors.NotFound):
            container.get_archive("/nosuch")
        assert any(d["Path"] == "/tmp/py" and d["Kind"] == 1 for d in container.diff())
        assert b"".join(container.export())[:1]
        container.remove(force=True)
    finally:
        client.close()
