# SPDX-License-Identifier: Apache-2.0
"""What we save is read by skopeo, umoci, podman and dockerd; what they save is loaded by us."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import need
from harness import images
from harness.registry import Registry as DockerRegistry
from integration.layers_only import Stand
from wharfie.images.loading import Loaded, load
from wharfie.images.making import add_layer, commit_image
from wharfie.images.saving import SaveItem, save
from wharfie.images.walk import references
from wharfie.spec.image import ContainerConfig
from wharfie.spec.platform import parse_platform
from wharfie.spec.reference import parse_reference
from wharfie.transfer.push import Pusher
from wharfie.transfer.unpack import InProcessUnpacker, unpack_image

pytestmark = pytest.mark.peer
TARS = [images.make_tar({f"f{n}": os.urandom(100_000), "d": ("dir", 0o755)}) for n in range(3)]
NAME = "docker.io/library/saved:v1"


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    s = Stand(tmp_path / "ours")
    yield s
    s.close()


def hold(_: object) -> None:
    """A lease is held by the caller in real life; here nothing collects garbage."""


def make(stand: Stand, names: tuple[str, ...] = (NAME,), tars: list[bytes] = TARS) -> SaveItem:
    image = None
    for tar in tars:
        layer = add_layer(stand.content, io.BytesIO(tar), hold)
        image = commit_image(
            stand.content, image, layer, ContainerConfig(cmd=["/f0"], env=["A=b"]), hold,
            created="2026-01-01T00:00:00Z", platform=parse_platform("linux/amd64"), created_by="test",
        )  # fmt: skip
    assert image is not None
    for name in names:
        stand.records.put(name, image.target, refs=references(stand.content, image.target))
    return SaveItem(image.target, tuple(parse_reference(n) for n in names))


def write(stand: Stand, path: Path, *items: SaveItem) -> Path:
    with path.open("wb") as f:
        f.writelines(save(stand.content, items))
    return path


def check(loaded: list[Loaded], stand: Stand) -> Loaded:
    assert len(loaded) == 1
    assert loaded[0].image.diff_ids == [images.digest(t) for t in TARS]
    assert (loaded[0].image.config.config or ContainerConfig()).cmd == ["/f0"]
    unpack_image(stand.content, stand.layers, InProcessUnpacker(stand.layers), loaded[0].image)  # type: ignore[arg-type]
    assert [stand.layers.layers[images.digest(t)] for t in TARS] == TARS
    return loaded[0]


def run(*command: str, **more: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def load_file(stand: Stand, path: Path) -> list[Loaded]:
    with path.open("rb") as f:
        return load(stand.content, f, hold)


def test_ours_reads_ours(stand: Stand, tmp_path: Path) -> None:
    item = make(stand, (NAME, "localhost:5000/other/name:2"))
    other = make(stand, ("docker.io/x/y:z",), TARS[:1])
    path = write(stand, tmp_path / "a.tar", item, other)
    assert write(stand, tmp_path / "b.tar", item, other).read_bytes() == path.read_bytes()
    fresh = Stand(tmp_path / "fresh")
    loaded = load_file(fresh, path)
    assert [(i.target.digest, tuple(map(str, i.names))) for i in loaded] == [
        (item.target.digest, (NAME, "localhost:5000/other/name:2")),
        (other.target.digest, ("docker.io/x/y:z",)),
    ]
    fresh.close()


@pytest.mark.parametrize("program", ["gzip", "zstd", "xz", "bzip2"])
def test_compressed_archives(stand: Stand, tmp_path: Path, program: str) -> None:
    need(program)
    path = write(stand, tmp_path / "a.tar", make(stand))
    with path.open("rb") as f:
        packed = subprocess.run([program, "-c"], stdin=f, capture_output=True, check=True).stdout
    fresh = Stand(tmp_path / "fresh")
    check(load(fresh.content, io.BytesIO(packed), hold), fresh)
    fresh.close()


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_skopeo_reads_ours(stand: Stand, tmp_path: Path, form: str) -> None:
    need("skopeo")
    path = write(stand, tmp_path / "a.tar", make(stand))
    shown = json.loads(run("skopeo", "inspect", "--config", f"{form}:{path}"))
    assert shown["rootfs"]["diff_ids"] == [images.digest(t) for t in TARS]
    run("skopeo", "copy", "-q", f"{form}:{path}", f"dir:{tmp_path}/out")


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_ours_reads_skopeo(stand: Stand, tmp_path: Path, form: str) -> None:
    need("skopeo")
    ours = write(stand, tmp_path / "a.tar", make(stand))
    theirs = tmp_path / "b.tar"
    name = ":saved:v1" if form == "docker-archive" else ":docker.io/library/saved:v1"
    run("skopeo", "copy", "-q", f"docker-archive:{ours}", f"{form}:{theirs}{name}")
    fresh = Stand(tmp_path / "fresh")
    loaded = check(load_file(fresh, theirs), fresh)
    assert [str(n) for n in loaded.names] == [NAME]
    fresh.close()


def test_umoci_both_ways(stand: Stand, tmp_path: Path) -> None:
    need("umoci")
    path = write(stand, tmp_path / "a.tar", make(stand))
    layout = tmp_path / "layout"
    layout.mkdir()
    run("tar", "-xf", str(path), "-C", str(layout))
    run("umoci", "config", "--image", f"{layout}:v1", "--config.label", "by=umoci")
    run("umoci", "unpack", "--image", f"{layout}:v1", str(tmp_path / "bundle"))
    assert (tmp_path / "bundle/rootfs/f0").stat().st_size == 100_000
    for old in ("manifest.json",):
        (layout / old).unlink()
    run("tar", "-cf", str(tmp_path / "b.tar"), "-C", str(layout), ".")
    fresh = Stand(tmp_path / "fresh")
    loaded = check(load_file(fresh, tmp_path / "b.tar"), fresh)
    assert (loaded.image.config.config or ContainerConfig()).labels == {"by": "umoci"}
    assert [str(n) for n in loaded.names] == [NAME]  # umoci keeps our annotation
    fresh.close()


@pytest.fixture
def podman() -> Iterator[Callable[..., str]]:
    need("podman")
    root = Path(tempfile.mkdtemp(prefix="wh-p"))  # podman wants a short runroot
    base = ("podman", "--root", f"{root}/root", "--runroot", f"{root}/run", "--storage-driver", "vfs")
    yield lambda *args: run(*base, *args)
    shutil.rmtree(root, ignore_errors=True)


@pytest.mark.root
def test_podman_both_ways(stand: Stand, tmp_path: Path, podman: Callable[..., str]) -> None:
    path = write(stand, tmp_path / "a.tar", make(stand))
    assert "saved:v1" in podman("load", "-q", "-i", str(path))
    for form in ("docker-archive", "oci-archive"):
        theirs = tmp_path / f"{form}.tar"
        podman("save", "-q", "--format", form, "-o", str(theirs), NAME)
        fresh = Stand(tmp_path / form)
        assert [str(n) for n in check(load_file(fresh, theirs), fresh).names] == [NAME]
        fresh.close()


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    need("dockerd", "docker")
    root = tmp_path_factory.mktemp("dockerd")
    sock = f"/tmp/wh-dockerd-{os.getpid()}.sock"
    with (root / "log").open("wb") as log:
        daemon = subprocess.Popen(
            ["dockerd", "--data-root", f"{root}/data", "--exec-root", f"{root}/exec", "-H", f"unix://{sock}",
             "--pidfile", f"{root}/pid", "--storage-driver", "vfs", "--iptables=false", "--bridge=none"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while subprocess.run(["docker", "-H", f"unix://{sock}", "version"], capture_output=True).returncode:
            assert daemon.poll() is None, (root / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (root / "log").read_text()[-2000:]
            time.sleep(0.1)
        yield lambda *args: run("docker", "-H", f"unix://{sock}", *args)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)
        shutil.rmtree(root, ignore_errors=True)
        Path(sock).unlink(missing_ok=True)


@pytest.mark.root
@pytest.mark.slow
def test_dockerd_both_ways(stand: Stand, tmp_path: Path, dockerd: Callable[..., str]) -> None:
    path = write(stand, tmp_path / "a.tar", make(stand))
    assert "Loaded image: saved:v1" in dockerd("load", "-q", "-i", str(path))
    shown = json.loads(dockerd("image", "inspect", "saved:v1"))[0]
    assert shown["RootFS"]["Layers"] == [images.digest(t) for t in TARS]
    assert shown["Config"]["Env"] == ["A=b"]
    theirs = tmp_path / "b.tar"
    dockerd("save", "-o", str(theirs), "saved:v1")
    with tarfile.open(theirs) as tar:
        assert "index.json" not in tar.getnames()  # the old layout, with a directory a layer
    fresh = Stand(tmp_path / "fresh")
    assert [str(n) for n in check(load_file(fresh, theirs), fresh).names] == [NAME]
    fresh.close()


def test_saved_then_pushed_by_skopeo_then_pulled(stand: Stand, tmp_path: Path, registry) -> None:
    need("skopeo")
    item = make(stand)
    path = write(stand, tmp_path / "a.tar", item)
    target = f"{registry.host}/archives/x:1"
    run("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci-archive:{path}", f"docker://{target}")
    fresh = Stand(tmp_path / "fresh")
    assert fresh.pull(target, platform=parse_platform("linux/amd64")).record.target.digest == item.target.digest
    fresh.close()


def pull_and_compare(ref: str, root: Path) -> None:
    fresh = Stand(root)
    result = fresh.pull(ref, platform=parse_platform("linux/amd64"))
    assert result.image.diff_ids == [images.digest(t) for t in TARS]
    assert [fresh.layers.layers[d] for d in result.image.diff_ids] == TARS
    fresh.close()


def push(stand: Stand, item: SaveItem, ref: str) -> None:
    stand.records.put(ref, item.target)
    Pusher(stand.registry, stand.content).push(parse_reference(ref), stand.records)


@pytest.mark.root
@pytest.mark.slow
def test_dockerd_by_registry(
    stand: Stand, tmp_path: Path, dockerd: Callable[..., str], registry: DockerRegistry
) -> None:
    ours, theirs = f"{registry.host}/peers/ours:1", f"{registry.host}/peers/dockerd:1"
    push(stand, make(stand), ours)
    dockerd("pull", "-q", ours)
    assert json.loads(dockerd("image", "inspect", ours))[0]["RootFS"]["Layers"] == [images.digest(t) for t in TARS]
    dockerd("tag", ours, theirs)
    dockerd("push", "-q", theirs)
    pull_and_compare(theirs, tmp_path / "fresh")


@pytest.mark.root
@pytest.mark.parametrize("form", ["oci gzip", "oci zstd", "v2s2 gzip"])
def test_podman_by_registry(
    stand: Stand, tmp_path: Path, podman: Callable[..., str], registry: DockerRegistry, form: str
) -> None:
    kind, packed = form.split()
    ours, theirs = f"{registry.host}/peers/ours:2", f"{registry.host}/peers/podman:{form.replace(' ', '-')}"
    push(stand, make(stand), ours)
    podman("pull", "-q", "--tls-verify=false", ours)
    podman("push", "-q", "--tls-verify=false", "--format", kind, "--compression-format", packed, ours, theirs)
    pull_and_compare(theirs, tmp_path / "fresh")
