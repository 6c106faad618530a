# SPDX-License-Identifier: Apache-2.0
"""Images by real clients: two docker CLIs eight years of API apart, and docker-py."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

import docker
import docker.errors
import pytest

from harness import images, leaks
from harness.engine import Engine, UnixConnection
from harness.registry import Registry
from integration.hostile_registry import Answer, HostileRegistry

pytestmark = [pytest.mark.root, pytest.mark.peer]

CLIENTS = [p for p in ("/usr/local/bin/docker", "/usr/bin/docker") if Path(p).exists()]


@pytest.fixture(params=CLIENTS, ids=lambda p: p.split("/")[2])
def cli(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_pull_tag_push_remove(engine: Engine, registry: Registry, cli: str) -> None:
    ref = images.Image([images.busybox_tar(), images.make_tar({"f": cli.encode()})]).push(registry.host, "life")
    said = engine.out("pull", ref, program=cli)
    assert "Pulling from life" in said
    assert "Downloaded newer image" in said
    assert "up to date" in engine.out("pull", ref, program=cli)
    mine = f"{registry.host}/copies/mine:v1"
    engine.run("tag", ref, mine, program=cli)
    pushed = engine.out("push", mine, program=cli)
    digest = engine.out("inspect", "-f", "{{.Id}}", ref, program=cli)
    assert f"digest: {digest}" in pushed
    listed = engine.out("images", "--format", "{{.Repository}}:{{.Tag}}", program=cli).splitlines()
    assert {ref, mine} <= set(listed)
    assert engine.out("images", "-q", "--no-trunc", mine, program=cli) == digest
    said = engine.out("rmi", mine, program=cli)
    assert said.splitlines()[0] == f"Untagged: {mine}"
    assert "Deleted" not in said
    said = engine.out("rmi", ref, program=cli)
    assert f"Deleted: {digest}" in said
    assert engine.run("inspect", ref, program=cli, check=False).returncode == 1
    engine.run("pull", mine, program=cli)
    assert engine.out("run", "--rm", mine, "cat", "/f", program=cli) == cli
    engine.run("rmi", mine, program=cli)


def test_ids_prefixes_and_digests(engine: Engine, busybox: str, cli: str) -> None:
    (info,) = json.loads(engine.out("inspect", busybox, program=cli))
    digest = info["Id"]
    hexdigits = digest.partition(":")[2]
    repository = busybox.rpartition(":")[0]
    for name in (digest, hexdigits, hexdigits[:12], f"{repository}@{digest}", repository):
        assert engine.out("inspect", "-f", "{{.Id}}", name, program=cli) == digest, name
    assert engine.out("run", "--rm", hexdigits[:12], "echo", "by id", program=cli) == "by id"
    assert engine.run("inspect", "--type", "image", "0123456789ab", program=cli, check=False).returncode == 1


def test_history_and_filters(engine: Engine, registry: Registry, cli: str) -> None:
    ref = images.Image([images.busybox_tar()], {"Labels": {"which": "this"}}).push(registry.host, "filtered", "f1")
    engine.run("pull", "-q", ref, program=cli)
    rows = engine.out("history", "--format", "{{.CreatedBy}}|{{.Size}}", ref, program=cli).splitlines()
    assert len(rows) == 1
    assert rows[0].startswith("test|")

    def names(*filters: str) -> list[str]:
        flags = [w for f in filters for w in ("--filter", f)]
        return engine.out("images", *flags, "--format", "{{.Repository}}:{{.Tag}}", program=cli).splitlines()

    assert names("label=which=this") == [ref]
    assert names("label=which=other") == []
    assert names(f"reference={registry.host}/filt*") == [ref]
    assert names(f"reference={registry.host}/filt*", "dangling=true") == []
    assert ref not in names(f"before={ref}")
    assert engine.run("images", "--filter", "nosuch=1", program=cli, check=False).returncode == 1
    engine.run("rmi", ref, program=cli)


def test_in_use_and_dangling(engine: Engine, registry: Registry, cli: str) -> None:
    first = images.Image([images.busybox_tar(), images.make_tar({"v": b"1"})])
    second = images.Image([images.busybox_tar(), images.make_tar({"v": b"2"})])
    ref = first.push(registry.host, "moving")
    engine.run("pull", "-q", ref, program=cli)
    engine.run("create", "--name", "user", ref, program=cli)
    done = engine.run("rmi", ref, program=cli, check=False)
    assert done.returncode == 1
    assert b"is using its referenced image" in done.stderr
    done = engine.run("rmi", first.digest, program=cli, check=False)
    assert done.returncode == 1
    assert b"stopped container" in done.stderr
    second.push(registry.host, "moving")
    engine.run("pull", "-q", ref, program=cli)
    assert engine.out("images", "-q", "--no-trunc", "--filter", "dangling=true", program=cli) == first.digest
    assert "Total reclaimed space: 0B" in engine.out("image", "prune", "-f", program=cli), "it is in use"
    engine.run("start", "-a", "user", program=cli)
    engine.run("rm", "user", program=cli)
    assert first.digest in engine.out("image", "prune", "-f", program=cli)
    assert engine.run("inspect", first.digest, program=cli, check=False).returncode == 1
    assert engine.out("run", "--rm", ref, "cat", "/v", program=cli) == "2"
    engine.run("rmi", ref, program=cli)


def test_two_repositories_by_id(engine: Engine, registry: Registry, cli: str) -> None:
    image = images.Image([images.busybox_tar(), images.make_tar({"two": cli.encode()})])
    ref = image.push(registry.host, "one")
    engine.run("pull", "-q", ref, program=cli)
    engine.run("tag", ref, "other:tag", program=cli)
    done = engine.run("rmi", image.digest, program=cli, check=False)
    assert done.returncode == 1
    assert b"multiple repositories" in done.stderr
    engine.run("rmi", "-f", image.digest, program=cli)
    assert engine.out("images", "-q", "other", program=cli) == ""


def test_platforms(engine: Engine, registry: Registry, cli: str) -> None:
    here = images.Image([images.busybox_tar(), images.make_tar({"amd": cli.encode()})])
    other = images.Image([images.make_tar({"arm": cli.encode()})], platform="linux/arm64")
    for one in (here, other):
        for blob in (*one.blobs, one.config_blob):
            images.push_blob(registry.host, "multi", blob)
        images.put_manifest(
            registry.host, "multi", one.digest, one.manifest, "application/vnd.oci.image.manifest.v1+json"
        )
    index = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": i.digest, "size": len(i.manifest), "platform": {"os": "linux", "architecture": arch}}
            for i, arch in ((here, "amd64"), (other, "arm64"))
        ],
    }).encode()  # fmt: skip
    images.put_manifest(registry.host, "multi", "latest", index, "application/vnd.oci.image.index.v1+json")
    ref = f"{registry.host}/multi:latest"
    engine.run("pull", "-q", "--platform", "linux/arm64", ref, program=cli)
    assert engine.out("inspect", "-f", "{{.Architecture}}", ref, program=cli) == "arm64"
    engine.run("pull", "-q", ref, program=cli)
    assert engine.out("inspect", "-f", "{{.Architecture}} {{.Id}}", ref, program=cli) == f"amd64 {images.digest(index)}"
    done = engine.run("pull", "--platform", "linux/s390x", ref, program=cli, check=False)
    assert done.returncode == 1
    assert b"linux/arm64" in done.stderr
    status, found = engine.api("GET", f"/distribution/{ref}/json")
    assert status == 200
    assert [p["architecture"] for p in found["Platforms"]] == ["amd64", "arm64"]
    engine.run("rmi", ref, program=cli)


def test_all_tags(engine: Engine, registry: Registry, cli: str) -> None:
    for tag in ("a", "b"):
        images.Image([images.busybox_tar(), images.make_tar({"t": tag.encode()})]).push(registry.host, "tagged", tag)
    engine.run("pull", "-a", "-q", f"{registry.host}/tagged", program=cli)
    listed = engine.out("images", "--format", "{{.Tag}}", f"{registry.host}/tagged", program=cli).splitlines()
    assert sorted(listed) == ["a", "b"]
    engine.run("rmi", *(f"{registry.host}/tagged:{t}" for t in listed), program=cli)


def test_docker_py(engine: Engine, registry: Registry) -> None:
    ref = images.Image([images.busybox_tar(), images.make_tar({"py": b"x"})]).push(registry.host, "py")
    client = docker.DockerClient(base_url=engine.host, version="auto")
    try:
        image = client.images.pull(registry.host + "/py", tag="latest")
        assert image.tags == [ref]
        assert image.attrs["Os"] == "linux"
        assert client.images.get(image.id).id == image.id
        assert any(i.id == image.id for i in client.images.list())
        assert image.tag("renamed", "x")
        assert [h["CreatedBy"] for h in image.history()] == ["test", "test"]
        messages = list(client.images.push(ref, stream=True, decode=True))
        assert any("aux" in m for m in messages)
        archive = b"".join(image.save(named=True))
        client.images.remove(ref)
        client.images.remove("renamed:x")
        with pytest.raises(docker.errors.ImageNotFound):
            client.images.get(ref)
        (loaded,) = client.images.load(archive)
        assert loaded.id == image.id
        client.images.remove(image.id, force=True)
        assert client.images.prune()["SpaceReclaimed"] >= 0
        assert client.df()["LayersSize"] > 0
        assert client.info()["Driver"]
        assert client.api.inspect_distribution(ref)["Descriptor"]["digest"] == image.id
    finally:
        client.close()


def test_events_of_an_image(engine: Engine, registry: Registry) -> None:
    ref = images.Image([images.busybox_tar(), images.make_tar({"e": b"x"})]).push(registry.host, "events")
    begin = engine.out("info", "-f", "{{.SystemTime}}", program=CLIENTS[0])
    engine.run("pull", "-q", ref)
    engine.run("tag", ref, "ev:1")
    engine.run("rmi", ref, "ev:1")
    _, raw = engine.api("GET", f"/events?since={begin}&until={_now()}")
    lines = raw.decode().splitlines() if isinstance(raw, bytes) else [json.dumps(raw)]
    events = [json.loads(line) for line in lines]
    actions = [e["Action"] for e in events if e["Type"] == "image"]
    assert actions == ["pull", "tag", "untag", "untag", "delete"]


def _now() -> str:
    return f"{time.time() + 0.01:.9f}"


def test_a_pull_ends_with_its_client_and_is_resumed(engine: Engine) -> None:
    registry = HostileRegistry()
    image = images.Image([images.busybox_tar(), images.make_tar({"big": os.urandom(3 << 20)})])
    ref = registry.add(image)
    blob = image.blobs[1]
    gone = threading.Event()

    def drip(answer: Answer) -> object:
        if "Range" in answer.headers:
            return False
        answer.send_response(200)
        answer.send_header("Content-Length", str(len(blob)))
        answer.end_headers()
        answer.wfile.write(blob[: 2 << 20])
        try:
            for at in range(2 << 20, len(blob)):
                answer.wfile.write(blob[at : at + 1])
                answer.wfile.flush()
                time.sleep(0.02)
        except OSError:
            gone.set()
        return True

    registry.rule("GET", f"/v2/t/x/blobs/{images.digest(blob)}", drip)
    try:
        connection = UnixConnection(str(engine.socket))
        connection.request("POST", f"/images/create?fromImage={registry.host}/t/x&tag=latest")
        answer = connection.getresponse()
        while b"Downloading" not in answer.readline():
            pass
        connection.sock.close()
        answer.close()
        assert gone.wait(10), "the download ends when nobody waits for it"
        assert leaks.wait_until_gone(lambda: leaks.processes_with(f"wharfie-unpack {engine.state}")) == []
        assert engine.out("images", "-q", ref) == ""
        engine.run("pull", "-q", ref)
        resumed = [s for s in registry.asked("GET", images.digest(blob)) if "range" in s.headers]
        assert resumed, "what was there is not fetched again"
        assert engine.out("run", "--rm", ref, "stat", "-c", "%s", "/big") == str(3 << 20)
        engine.run("rmi", ref)
    finally:
        registry.close()


def _outer_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(s.getsockname()[0])


def test_insecure_registries(busybox: str) -> None:
    registry = HostileRegistry(address=_outer_address())
    ref = registry.add(images.busybox())
    try:
        for config, code in (("", 1), (f'insecure_registries = ["{registry.host}"]\n', 0)):
            engine = Engine(config=config)
            try:
                done = engine.run("pull", "-q", ref, check=False)
                assert done.returncode == code, done.stderr
                if not code:
                    engine.run("rmi", ref)
                    index = engine.api("GET", "/info")[1]["RegistryConfig"]["IndexConfigs"]
                    assert index[registry.host]["Secure"] is False
                engine.close()
            finally:
                engine.destroy()
    finally:
        registry.close()
