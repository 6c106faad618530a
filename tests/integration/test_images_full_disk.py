# SPDX-License-Identifier: Apache-2.0
"""A full disk while images, volumes and containers are being written: an error that says so, and nothing half left."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import images, leaks
from harness.engine import Engine
from harness.registry import Registry

pytestmark = [pytest.mark.root]

DOCKER = "/usr/local/bin/docker"
BIG = 40 << 20


@pytest.fixture(scope="module")
def small(busybox: str) -> Iterator[Engine]:
    """An engine on 24 MiB, busybox pulled."""
    base = Path(tempfile.mkdtemp(prefix="wh-", dir="/var/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(base)], check=True)
    engine = None
    try:
        engine = Engine(base=base)
        engine.run("pull", busybox)
        yield engine
        engine.close()
    finally:
        if engine:
            engine.destroy()
        subprocess.run(["umount", "-l", str(base)], check=False)
        shutil.rmtree(base, ignore_errors=True)


def used(engine: Engine) -> int:
    found = os.statvfs(engine.base)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.fixture(autouse=True)
def room_comes_back(small: Engine, busybox: str) -> Iterator[None]:
    before = used(small)
    yield
    small.remove_containers()
    small.run("image", "prune", "-f", program=DOCKER)
    assert leaks.wait_until_gone(lambda: [used(small)] if used(small) > before + (1 << 20) else []) == []
    assert small.out("run", "--rm", busybox, "echo", "works", program=DOCKER) == "works"


def fails(status: int, body: dict[str, str]) -> None:
    assert status == 500, body
    assert "space" in body["message"], body
    assert body["code"] == "ResourceExhaustedError"


def test_import(small: Engine) -> None:
    fails(*small.api("POST", "/images/create?fromSrc=-&repo=big", images.make_tar({"big": os.urandom(BIG)})))


def test_load(small: Engine, tmp_path: Path) -> None:
    image = images.Image([images.make_tar({"big": os.urandom(BIG)})])
    blobs = {f"blobs/sha256/{images.digest(b)[7:]}": b for b in (*image.blobs, image.config_blob, image.manifest)}
    index = f'{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{image.digest}","size":{len(image.manifest)}}}]}}'
    archive = images.make_tar({"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index.encode(), **blobs})
    fails(*small.api("POST", "/images/load", archive))


def test_put_archive(small: Engine, busybox: str) -> None:
    small.run("run", "-d", "--name", "c", busybox, "sleep", "1000", program=DOCKER)
    fails(*small.api("PUT", "/containers/c/archive?path=/root", images.make_tar({"big": os.urandom(BIG)})))


def test_commit(small: Engine, busybox: str) -> None:
    small.run(
        "run", "--name", "c", busybox, "sh", "-c", "head -c 12000000 /dev/urandom > /big", program=DOCKER, check=False
    )
    fails(*small.api("POST", "/commit?container=c&repo=big"))
    assert small.out("images", "-q", "big", program=DOCKER) == ""


def test_volume_is_filled_whole_or_not_at_all(small: Engine, registry: Registry) -> None:
    ref = images.Image([images.busybox_tar(), images.make_tar({"data/a": b"x", "data/z": bytes(9 << 20)})]).push(
        registry.host, "fill"
    )
    small.run("pull", "-q", ref)
    with (small.base / "filler").open("wb") as filler:
        filler.write(bytes(os.statvfs(small.base).f_bfree * 4096 - (6 << 20)))
    done = small.run("create", "-v", "half:/data", ref, program=DOCKER, check=False)
    (small.base / "filler").unlink()
    if done.returncode:
        assert b"space" in done.stderr
        small.run("volume", "create", "half", program=DOCKER)
        assert os.listdir(small.root / "volumes/half/_data") == []
        assert os.listdir(small.root / "volumes/half") == ["_data"]
    small.remove_containers()
    small.run("volume", "rm", "half", program=DOCKER)
    small.run("rmi", ref)
