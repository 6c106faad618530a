# SPDX-License-Identifier: Apache-2.0
"""save, load, import, export, commit and diff through the engine, and what other tools make of the archives."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from harness import images, leaks
from harness.engine import Engine, UnixConnection
from harness.registry import Registry

pytestmark = [pytest.mark.root, pytest.mark.peer]

DOCKER = "/usr/local/bin/docker"


def run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture
def two(engine: Engine, registry: Registry) -> str:
    """An image of two layers, the second with a whiteout."""
    upper = images.make_tar({"etc": ("dir", 0o755), "etc/.wh.group": b"", "etc/new": b"new"})
    ref = images.Image([images.busybox_tar(), upper], {"Cmd": ["cat", "/etc/new"]}).push(registry.host, "two")
    engine.run("pull", "-q", ref, program=DOCKER)
    return ref


@pytest.fixture
def podman() -> Iterator[list[str]]:
    """podman with roots of its own, at paths short enough for it."""
    need("skopeo", "podman")
    base = tempfile.mkdtemp(prefix="wh-", dir="/var/tmp")
    yield ["podman", "--root", f"{base}/p", "--runroot", f"{base}/r", "--storage-driver", "vfs"]
    shutil.rmtree(base)


def test_save_is_read_by_skopeo_and_podman_and_back(
    engine: Engine, two: str, podman: list[str], tmp_path: Path
) -> None:
    engine.run("tag", two, "archived:v1", program=DOCKER)
    saved = tmp_path / "saved.tar"
    engine.run("save", "-o", str(saved), "archived:v1", program=DOCKER)
    digest = engine.out("inspect", "-f", "{{.Id}}", two, program=DOCKER)
    assert json.loads(run("skopeo", "inspect", f"oci-archive:{saved}:v1"))["Digest"] == digest
    run("skopeo", "copy", f"docker-archive:{saved}:archived:v1", f"oci:{tmp_path}/layout:x")
    run(*podman, "load", "-i", str(saved))
    run(*podman, "save", "--format", "docker-archive", "-o", f"{tmp_path}/podman.tar", "docker.io/library/archived:v1")
    run(*podman, "save", "--format", "oci-archive", "-o", f"{tmp_path}/podman-oci.tar", "docker.io/library/archived:v1")
    run(*podman, "rmi", "-af")
    engine.run("rmi", "archived:v1", two, program=DOCKER)
    for archive in (f"{tmp_path}/podman.tar", f"{tmp_path}/podman-oci.tar", str(saved)):
        said = engine.out("load", "-i", archive, program=DOCKER)
        assert "archived:v1" in said
        name = said.splitlines()[0].removeprefix("Loaded image: ")
        assert engine.out("run", "--rm", name, program=DOCKER) == "new"
        assert engine.run("run", "--rm", name, "ls", "/etc/group", program=DOCKER, check=False).returncode == 1
        engine.run("rmi", name, program=DOCKER)


def test_save_by_repository_id_and_several(engine: Engine, two: str, busybox: str, tmp_path: Path) -> None:
    engine.run("tag", two, "repo:a", program=DOCKER)
    engine.run("tag", busybox, "repo:b", program=DOCKER)
    digest = engine.out("inspect", "-f", "{{.Id}}", two, program=DOCKER)

    def names(*what: str) -> list[str]:
        engine.run("save", "-o", f"{tmp_path}/s.tar", *what, program=DOCKER)
        with tarfile.open(f"{tmp_path}/s.tar") as tar:
            manifest = tar.extractfile("manifest.json")
            assert manifest
            return sorted(n for entry in json.load(manifest) for n in entry["RepoTags"] or ["<none>"])

    assert names("repo") == ["repo:a", "repo:b"]
    assert names(digest) == ["<none>"]
    assert names("repo:a", busybox) == sorted(["repo:a", busybox])
    done = engine.run("save", "-o", f"{tmp_path}/no.tar", "repo:a", "nosuch:x", program=DOCKER, check=False)
    assert done.returncode == 1
    assert b"nosuch" in done.stderr
    engine.run("rmi", "repo:a", "repo:b", two, program=DOCKER)


def test_commit_changes_and_history(engine: Engine, two: str) -> None:
    engine.run(
        "run", "--name", "work", two, "sh", "-c", "echo x > /made; rm /etc/new; mkdir /d; chmod 700 /d", program=DOCKER
    )
    assert sorted(engine.out("diff", "work", program=DOCKER).splitlines()) == [
        "A /d",
        "A /made",
        "C /etc",
        "D /etc/new",
    ]
    digest = engine.out(
        "commit", "-m", "why", "-a", "who", "-c", "ENV COMMITTED=1", "-c", 'CMD ["cat","/made"]', "work", "result:1", program=DOCKER
    )  # fmt: skip
    assert engine.out("run", "--rm", "result:1", program=DOCKER) == "x"
    out = engine.out("run", "--rm", "result:1", "sh", "-c", "echo $COMMITTED; ls /etc/new; stat -c %a /d", program=DOCKER, check=False)  # fmt: skip
    assert out == "1\n700"
    (info,) = json.loads(engine.out("inspect", "result:1", program=DOCKER))
    assert (info["Id"], info["Comment"], info["Author"]) == (digest, "why", "who")
    assert len(info["RootFS"]["Layers"]) == 3
    assert "why" in engine.out("history", "--format", "{{.Comment}}", "result:1", program=DOCKER)
    unnamed = engine.out("commit", "work", program=DOCKER)
    assert engine.out("images", "-q", "--no-trunc", "--filter", "dangling=true", program=DOCKER) == unnamed
    done = engine.run("commit", "-c", "RUN x", "work", program=DOCKER, check=False)
    assert done.returncode == 1
    assert b"RUN" in done.stderr
    engine.remove_containers()
    engine.run("rmi", "result:1", unnamed, two, program=DOCKER)


def test_commit_of_an_unchanged_container_adds_no_layer(engine: Engine, two: str) -> None:
    engine.run("run", "-d", "--name", "same", two, "sleep", "1000", program=DOCKER)
    assert engine.out("diff", "same", program=DOCKER) == ""
    engine.run("commit", "same", "same:1", program=DOCKER)
    (info,) = json.loads(engine.out("inspect", "same:1", program=DOCKER))
    assert len(info["RootFS"]["Layers"]) == 2
    assert engine.out("inspect", "-f", "{{.State.Status}}", "same", program=DOCKER) == "running", "pause ended"
    engine.remove_containers()
    engine.run("rmi", "same:1", two, program=DOCKER)


def test_committed_image_goes_to_a_registry_and_back(engine: Engine, two: str, registry: Registry) -> None:
    engine.run("run", "--name", "work", two, "touch", "/pushed", program=DOCKER)
    ref = f"{registry.host}/committed:1"
    engine.run("commit", "work", ref, program=DOCKER)
    engine.run("push", ref, program=DOCKER)
    engine.remove_containers()
    engine.run("rmi", ref, program=DOCKER)
    engine.run("pull", ref, program=DOCKER)
    assert engine.out("run", "--rm", ref, "ls", "/pushed", program=DOCKER) == "/pushed"
    engine.run("rmi", ref, two, program=DOCKER)


def test_export_and_import(engine: Engine, two: str, tmp_path: Path) -> None:
    engine.run(
        "run", "-d", "--name", "x", "-v", "/vol", "-v", f"{tmp_path}:/bound", two,
        "sh", "-c", "echo in > /root/f; echo hidden > /vol/v; chown 5:6 /root/f; sleep 1000", program=DOCKER,
    )  # fmt: skip
    for _ in range(100):
        if engine.run("exec", "x", "test", "-s", "/vol/v", program=DOCKER, check=False).returncode == 0:
            break
    running = engine.run("export", "x", program=DOCKER).stdout
    engine.run("stop", "-t", "0", "x", program=DOCKER)
    stopped = engine.run("export", "x", program=DOCKER).stdout
    for archive in (running, stopped):
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            names = tar.getnames()
            member = tar.getmember("root/f")
            assert (member.uid, member.gid) == (5, 6), "ids are those of the container"
            assert "etc/new" in names
            assert "etc/group" not in names
            assert "vol/v" not in names, "volumes are left out"
    done = engine.run(
        "import", "-c", 'CMD ["cat","/root/f"]', "-m", "note", "-", "imported:1", program=DOCKER, stdin=running
    )
    assert done.stdout.startswith(b"sha256:")
    assert engine.out("run", "--rm", "imported:1", program=DOCKER) == "in"
    engine.remove_containers()
    engine.run("rmi", "imported:1", two, program=DOCKER)


@pytest.mark.parametrize(
    ("archive", "says"),
    [(b"", "image"), (b"no tar" * 200, "tar"), (images.make_tar({"a": b"b"}), "import")],
    ids=["empty", "rubbish", "a rootfs"],
)
def test_load_of_something_else(engine: Engine, archive: bytes, says: str) -> None:
    blobs = engine.root / "content/blobs/sha256"
    engine.run("image", "prune", "-f", program=DOCKER)
    before = {p.name for p in blobs.iterdir()}
    status, body = engine.api("POST", "/images/load", archive, headers={"Content-Type": "application/x-tar"})
    assert status in {400, 500}, body
    assert says in body["message"]
    assert leaks.wait_until_gone(lambda: {p.name for p in blobs.iterdir()} - before) == []


def test_import_of_rubbish(engine: Engine) -> None:
    for rubbish in (b"", b"x" * 5000, b"\x1f\x8b" + b"x" * 5000):
        status, body = engine.api("POST", "/images/create?fromSrc=-&repo=bad", rubbish)
        assert status >= 400, body
        assert body["message"]
    status, body = engine.api("POST", "/images/create?fromSrc=-&repo=bad&changes=RUN+x", images.make_tar({"a": b""}))
    assert status == 400
    assert engine.out("images", "-q", "bad", program=DOCKER) == ""


def test_kill_while_something_comes_in(own_engine: Engine, busybox: str) -> None:
    engine = own_engine
    blobs, ingest = engine.root / "content/blobs/sha256", engine.root / "content/ingest"
    before = {p.name for p in blobs.iterdir()}
    layer = images.make_tar({"a": os.urandom(2 << 20), "b": os.urandom(2 << 20)})
    for path in ("/images/load", "/images/create?fromSrc=-&repo=half"):
        connection = UnixConnection(str(engine.socket))
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", str(len(layer)))
        connection.endheaders()
        connection.send(layer[: 3 << 20])
        assert leaks.wait_until_gone(lambda: [] if any(ingest.iterdir()) else [1]) == [], "it has begun"
        engine.kill()
        connection.close()
        engine.start()
        assert leaks.wait_until_gone(lambda: {p.name for p in blobs.iterdir()} - before) == []
        assert leaks.wait_until_gone(ingest.iterdir) == []
        assert engine.out("images", "-q", "half", program=DOCKER) == ""
    assert engine.out("run", "--rm", busybox, "echo", "whole", program=DOCKER) == "whole"


def test_a_client_that_leaves_ends_save_load_and_import(engine: Engine, two: str) -> None:
    def threads() -> int:
        return len(os.listdir(f"/proc/{engine.pid}/task"))

    def descriptors() -> list[str]:
        """What the daemon has open, its database (once a thread) left out."""
        found = []
        for fd in os.listdir(f"/proc/{engine.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/{engine.pid}/fd/{fd}"))
        return [f for f in found if "metadata.db" not in f]

    engine.run("save", two, program=DOCKER)
    before = descriptors()
    for _ in range(5):
        connection = UnixConnection(str(engine.socket))
        connection.request("GET", f"/images/get?names={two}")
        connection.getresponse().read(100)
        connection.close()
        for path in ("/images/load", "/images/create?fromSrc=-&repo=half"):
            connection = UnixConnection(str(engine.socket))
            connection.putrequest("POST", path)
            connection.putheader("Content-Length", "1000000")
            connection.endheaders()
            connection.send(images.make_tar({"x": b"y" * 200_000})[:100_000])
            connection.close()
    assert leaks.wait_until_gone(lambda: descriptors()[len(before) :]) == []
    assert threads() < 40
    assert engine.out("images", "-q", "half", program=DOCKER) == ""
    engine.run("rmi", two, program=DOCKER)
