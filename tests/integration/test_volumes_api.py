# SPDX-License-Identifier: Apache-2.0
"""Volumes: life, use, copy-up, options, and what a kill leaves."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import docker
import pytest

from harness import images, leaks
from harness.engine import Engine
from harness.registry import Registry

pytestmark = [pytest.mark.root]

DOCKER = "/usr/local/bin/docker"


def names(engine: Engine, *flags: str) -> list[str]:
    return engine.out("volume", "ls", "-q", *flags, program=DOCKER).split()


@pytest.fixture(autouse=True)
def no_volumes(engine: Engine) -> object:
    yield
    engine.remove_containers()
    for name in names(engine):
        engine.run("volume", "rm", name, program=DOCKER)
    assert os.listdir(engine.root / "volumes") == []


def test_life(engine: Engine) -> None:
    assert engine.out("volume", "create", "--label", "a=b", "one", program=DOCKER) == "one"
    (info,) = json.loads(engine.out("volume", "inspect", "one", program=DOCKER))
    assert info["Labels"] == {"a": "b"}
    assert info["Driver"] == "local"
    assert Path(info["Mountpoint"]) == engine.root / "volumes/one/_data"
    anonymous = engine.out("volume", "create", program=DOCKER)
    assert len(anonymous) == 64
    assert names(engine, "-f", "label=a") == ["one"]
    assert names(engine, "-f", "label=a=c") == []
    assert names(engine, "-f", "name=on") == ["one"]
    assert set(names(engine, "-f", "dangling=true")) == {"one", anonymous}
    assert "Total reclaimed space" in engine.out("volume", "prune", "-f", program=DOCKER)
    assert names(engine) == ["one"], "prune takes anonymous ones"
    engine.run("volume", "prune", "-af", program=DOCKER)
    assert names(engine) == []


def test_errors(engine: Engine) -> None:
    status, body = engine.api("GET", "/volumes/nosuch")
    assert (status, body["message"].splitlines()[0]) == (404, "get nosuch: no such volume")
    assert engine.api("DELETE", "/volumes/nosuch")[0] == 404
    assert engine.api("DELETE", "/volumes/nosuch?force=1")[0] == 204
    assert engine.api("POST", "/volumes/create", {"Name": "../x"})[0] == 400
    assert engine.api("POST", "/volumes/create", {"Name": "ok", "Driver": "nosuch"})[0] == 501
    assert engine.api("POST", "/volumes/create", {"Name": "ok", "DriverOpts": {"what": "x"}})[0] == 400
    assert engine.api("POST", "/volumes/create", {"Name": "ok", "Nonsense": 1})[0] == 400
    assert engine.api("POST", "/volumes/create", b"{")[0] == 400
    engine.run("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "taken", program=DOCKER)
    assert engine.api("POST", "/volumes/create", {"Name": "taken"})[0] == 201
    assert (
        engine.api("POST", "/volumes/create", {"Name": "taken", "DriverOpts": {"type": "tmpfs", "device": "x"}})[0]
        == 409
    )


def test_in_use(engine: Engine, busybox: str) -> None:
    engine.run("create", "--name", "holder", "-v", "held:/v", busybox, program=DOCKER)
    status, body = engine.api("DELETE", "/volumes/held")
    assert status == 409
    assert "volume is in use" in body["message"]
    assert names(engine, "-f", "dangling=true") == []
    engine.run("volume", "prune", "-af", program=DOCKER)
    assert names(engine) == ["held"]
    engine.run("rm", "holder", program=DOCKER)
    assert names(engine, "-f", "dangling=true") == ["held"]


def test_copy_up_keeps_everything(engine: Engine, registry: Registry) -> None:
    tar = images.make_tar(
        {
            "data": ("dir", 0o2750), "data/f": b"content", "data/run": ("exec", b"x"), "data/link": ("link", "f"),
            "data/hard": ("hard", "data/f"), "data/sub": ("dir", 0o700), "data/sub/deep": b"",
        }
    )  # fmt: skip
    ref = images.Image([images.busybox_tar(), tar]).push(registry.host, "copyup")
    engine.run("pull", "-q", ref)
    script = "stat -c '%n %a %s' /data /data/f /data/run /data/sub; readlink /data/link; stat -c %h /data/hard"
    out = engine.out("run", "--rm", "-v", "filled:/data", ref, "sh", "-c", script, program=DOCKER)
    assert out.splitlines() == [
        "/data 2750 80",
        "/data/f 644 7",
        "/data/run 755 1",
        "/data/sub 700 4096",
        "f",
        "2",
    ] or (
        [line.rsplit(" ", 1)[0] for line in out.splitlines()[:4]]
        == ["/data 2750", "/data/f 644", "/data/run 755", "/data/sub 700"]
        and out.splitlines()[4:] == ["f", "2"]
    )
    engine.run("run", "--rm", "-v", "filled:/data", ref, "rm", "/data/f", program=DOCKER)
    assert "f" not in os.listdir(engine.root / "volumes/filled/_data"), "filled only once"
    engine.run("run", "--rm", "-v", "empty:/data:nocopy", ref, "true", program=DOCKER)
    assert os.listdir(engine.root / "volumes/empty/_data") == []
    engine.run("rmi", ref)


def test_copy_up_takes_the_owner(engine: Engine, registry: Registry) -> None:
    import tarfile

    info = tarfile.TarInfo("data")
    info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, 0o755, 1000, 2000
    ref = images.Image([images.busybox_tar(), images.make_tar({"data": (info, b"")})], {"User": "1000:2000"}).push(
        registry.host, "owner"
    )
    engine.run("pull", "-q", ref)
    engine.run("run", "--rm", "-v", "owned:/data", ref, "touch", "/data/mine", program=DOCKER)
    found = (engine.root / "volumes/owned/_data").stat()
    assert (found.st_uid, found.st_gid) == (1000, 2000)
    engine.run("rmi", ref)


def test_image_volumes_are_anonymous_and_go_with_rm_v(engine: Engine, registry: Registry) -> None:
    ref = images.Image([images.busybox_tar()], {"Volumes": {"/v": {}}}).push(registry.host, "anonymous")
    engine.run("pull", "-q", ref)
    engine.run("run", "--rm", ref, "true", program=DOCKER)
    assert names(engine) == []
    engine.run("run", "--name", "keeps", ref, "touch", "/v/f", program=DOCKER)
    (volume,) = names(engine)
    engine.run("run", "--rm", "--volumes-from", "keeps", ref, "test", "-e", "/v/f", program=DOCKER)
    assert names(engine) == [volume], "it is still used"
    engine.run("rm", "keeps", program=DOCKER)
    assert names(engine) == [volume]
    engine.run("volume", "rm", volume, program=DOCKER)
    engine.run("run", "--name", "drops", ref, "true", program=DOCKER)
    engine.run("rm", "-v", "drops", program=DOCKER)
    assert names(engine) == []
    engine.run("rmi", ref)


def test_bind_and_tmpfs_options(engine: Engine, busybox: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "there").write_text("bound")
    engine.run(
        "volume", "create", "-o", "type=none", "-o", "o=bind", "-o", f"device={tmp_path}", "bound", program=DOCKER
    )
    assert engine.out("run", "--rm", "-v", "bound:/v", busybox, "cat", "/v/there", program=DOCKER) == "bound"
    engine.run(
        "volume", "create", "-o", "type=tmpfs", "-o", "o=size=1m,uid=7", "-o", "device=tmpfs", "ram", program=DOCKER
    )
    data = str(engine.root / "volumes/ram/_data")
    engine.run(
        "run",
        "-d",
        "--name",
        "a",
        "-v",
        "ram:/v",
        busybox,
        "sh",
        "-c",
        "echo shared > /v/f; sleep 1000",
        program=DOCKER,
    )
    assert leaks.mounts_below(data) == [data]
    out = engine.out("run", "--rm", "-v", "ram:/v", busybox, "sh", "-c", "cat /v/f; df -k /v | tail -1", program=DOCKER)
    assert out.startswith("shared\n")
    assert " 1024 " in out
    assert leaks.mounts_below(data) == [data]
    engine.run("stop", "-t", "0", "a", program=DOCKER)
    assert leaks.wait_until_gone(lambda: leaks.mounts_below(data)) == []
    engine.run(
        "volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=/nosuch/place", "gone", program=DOCKER
    )
    done = engine.run("run", "--rm", "-v", "gone:/v", busybox, "true", program=DOCKER, check=False)
    assert done.returncode == 125
    assert b"/nosuch/place" in done.stderr


def test_cve_2022_23648_copy_up_stays_in_the_image(engine: Engine, registry: Registry) -> None:
    ref = images.Image(
        [images.busybox_tar(), images.make_tar({"out": ("link", "/../../../../etc"), "up": ("link", "../../../root")})],
        {"Volumes": {"/out": {}, "/up": {}}},
    ).push(registry.host, "escape")
    engine.run("pull", "-q", ref)
    engine.run("create", "--name", "e", ref, program=DOCKER)
    found = {f for name in names(engine) for f in os.listdir(engine.root / "volumes" / name / "_data")}
    assert "shadow" not in found
    engine.run("rm", "-v", "e", program=DOCKER)
    engine.run("rmi", ref)


def test_kill_leaves_whole_volumes(own_engine: Engine, busybox: str) -> None:
    engine = own_engine
    engine.run("volume", "create", "named", program=DOCKER)
    engine.run("create", "--name", "c", "-v", "/anon", "-v", "used:/u", busybox, program=DOCKER)
    before = set(names(engine))
    volumes = engine.root / "volumes"
    engine.kill()
    (volumes / ".new-0123").mkdir()
    (volumes / ".gone-0123/_data").mkdir(parents=True)
    (volumes / "half/_data").mkdir(parents=True)
    (volumes / "adopted/_data").mkdir(parents=True)
    (volumes / "adopted/_data/precious").write_text("x")
    subprocess.run(["rm", "-rf", str(volumes / "named")], check=True)
    engine.start()
    assert set(names(engine)) == (before | {"adopted"}) - {"named"}
    assert set(os.listdir(volumes)) == set(names(engine))
    assert engine.api("DELETE", "/volumes/used")[0] == 409
    engine.run("rm", "-v", "c", program=DOCKER)
    assert set(names(engine)) == {"used", "adopted"}


def test_docker_py(engine: Engine, busybox: str) -> None:
    client = docker.DockerClient(base_url=engine.host, version="auto")
    try:
        volume = client.volumes.create("py", labels={"x": "y"})
        assert client.volumes.get("py").attrs["Labels"] == {"x": "y"}
        client.containers.run(busybox, ["sh", "-c", "echo hi > /d/f"], volumes={"py": {"bind": "/d"}}, remove=True)
        assert [v["Name"] for v in client.df()["Volumes"]] == ["py"]
        assert client.df()["Volumes"][0]["UsageData"]["Size"] == 3
        volume.remove()
        assert client.volumes.list() == []
    finally:
        client.close()
