# SPDX-License-Identifier: Apache-2.0
"""Archives that lie to `load` and `import`. Nothing may be written outside the store, nor read without limit."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import images
from wharfie.content.local import LocalStore, open_store
from wharfie.errdefs import DataLoss, InvalidArgument, NotFound, ResourceExhausted, WharfieError
from wharfie.images.loading import load
from wharfie.images.making import add_layer
from wharfie.spec.digest import sha256

IMAGE = images.Image([images.make_tar({"f": b"data" * 1000})])
HEX = {name: images.digest(data)[7:] for name, data in
       {"config": IMAGE.config_blob, "layer": IMAGE.blobs[0], "manifest": IMAGE.manifest}.items()}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return open_store(str(tmp_path / "content"))


def hold(_: object) -> None:
    pass


def layout(**changes: object) -> dict[str, object]:
    members: dict[str, object] = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": IMAGE.digest, "size": len(IMAGE.manifest),
            "annotations": {"io.containerd.image.name": "docker.io/library/x:1"},
        }]}).encode(),
        f"blobs/sha256/{HEX['config']}": IMAGE.config_blob,
        f"blobs/sha256/{HEX['layer']}": IMAGE.blobs[0],
        f"blobs/sha256/{HEX['manifest']}": IMAGE.manifest,
    }  # fmt: skip
    members.update(changes)
    return {k: v for k, v in members.items() if v is not None}


def docker(**changes: object) -> dict[str, object]:
    members: dict[str, object] = {
        "manifest.json": json.dumps([{"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l/layer.tar"]}]).encode(),
        "c.json": IMAGE.config_blob,
        "l/layer.tar": IMAGE.tars[0],
    }
    members.update(changes)
    return {k: v for k, v in members.items() if v is not None}


def read(store: LocalStore, members: dict[str, object]) -> list[object]:
    return list(load(store, io.BytesIO(images.make_tar(members)), hold))


def test_the_honest_ones_load(store: LocalStore) -> None:
    assert [str(n) for n in read(store, layout())[0].names] == ["docker.io/library/x:1"]  # type: ignore[attr-defined]
    assert [str(n) for n in read(store, docker())[0].names] == ["docker.io/library/x:1"]  # type: ignore[attr-defined]


class Endless:
    """A tar with one member of 5 GB of spaces, made while it is read (sparse on the attacker's disk)."""

    def __init__(self, name: str) -> None:
        info = tarfile.TarInfo(name)
        info.size = 5 << 30
        self._head = info.tobuf()
        self.given = 0

    def read(self, n: int = -1, /) -> bytes:
        head, self._head = self._head[:n], self._head[n:]
        self.given += len(head)
        if head:
            return head
        self.given += n
        return b" " * n


@pytest.mark.parametrize("name", ["index.json", "manifest.json", "oci-layout"])
def test_cve_2023_25153_endless_document(store: LocalStore, name: str) -> None:
    stream = Endless(name)
    tracemalloc.start()
    with pytest.raises(DataLoss, match="larger than"):
        load(store, stream, hold)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
    assert stream.given < 4 << 20


def test_config_beyond_the_limit_is_not_read_into_memory(store: LocalStore) -> None:
    big = b" " * (9 << 20) + IMAGE.config_blob
    with pytest.raises(ResourceExhausted):
        read(store, docker(**{"c.json": big}))


@pytest.mark.parametrize("evil", ["../../../../tmp/wh-evil", "/tmp/wh-evil", "blobs/sha256/../../../wh-evil"])
def test_cve_2026_17106_names_outside(store: LocalStore, evil: str, tmp_path: Path) -> None:
    try:
        read(store, layout(**{evil: b"evil"}))
    except WharfieError:
        pass
    assert not Path("/tmp/wh-evil").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"content"}


def test_cve_2025_4517_links_then_files(store: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    members = docker(**{"d": ("link", str(outside)), "d/f": b"evil", "h": ("hard", "/etc/passwd")})
    read(store, members)
    assert list(outside.iterdir()) == []


def test_layer_by_symlink_out_of_the_archive(store: LocalStore) -> None:
    with pytest.raises(NotFound, match="is not in it"):
        read(store, docker(**{"l/layer.tar": ("link", "/etc/passwd")}))
    with pytest.raises(NotFound, match="is not in it"):
        read(store, docker(**{"l/layer.tar": ("link", "../l/layer.tar")}))


def test_blob_with_another_digest(store: LocalStore) -> None:
    with pytest.raises(DataLoss, match="have the digest"):
        read(store, layout(**{f"blobs/sha256/{HEX['layer']}": b"evil"}))
    assert not store.has(images.digest(IMAGE.blobs[0]))
    assert not os.listdir(f"{store.root}/ingest")


@pytest.mark.parametrize("name", ["blobs/sha256/" + "g" * 64, "blobs/sha256/short", "blobs/md5/" + "0" * 32])
def test_blob_named_by_no_digest(store: LocalStore, name: str) -> None:
    with pytest.raises(DataLoss, match="not named by a digest"):
        read(store, layout(**{name: b"x"}))


def test_layer_that_is_not_its_diff_id(store: LocalStore) -> None:
    with pytest.raises(DataLoss, match="its config says"):
        read(store, docker(**{"l/layer.tar": images.make_tar({"other": b""})}))


@pytest.mark.parametrize("missing", ["config", "layer", "manifest"])
def test_missing_blob(store: LocalStore, missing: str) -> None:
    with pytest.raises(NotFound):
        read(store, layout(**{f"blobs/sha256/{HEX[missing]}": None}))


def test_devices(store: LocalStore) -> None:
    info = tarfile.TarInfo("dev")
    info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 3
    with pytest.raises(DataLoss):
        read(store, docker(dev=(info, b"")))


def test_evil_name(store: LocalStore) -> None:
    manifest = json.dumps([{"Config": "c.json", "RepoTags": ["../../x:1"], "Layers": ["l/layer.tar"]}]).encode()
    with pytest.raises(InvalidArgument):
        read(store, docker(**{"manifest.json": manifest}))


def test_cve_2021_41190_hybrid_index(store: LocalStore) -> None:
    index = json.loads(layout()["index.json"])  # type: ignore[arg-type]
    index["layers"] = []
    with pytest.raises(DataLoss):
        read(store, layout(**{"index.json": json.dumps(index).encode()}))


def test_not_an_archive(store: LocalStore) -> None:
    for data in (b"", b"hello world, this is no tar" * 100):
        with pytest.raises(WharfieError):
            load(store, io.BytesIO(data), hold)
    for tree in ({"etc": ("dir", 0o755)}, {f"usr/share/doc/{n}": b"x" for n in range(2000)}):
        with pytest.raises(InvalidArgument) as e:
            load(store, io.BytesIO(images.make_tar(tree)), hold)
        assert "wharfie import" in (e.value.hint or "")
    assert list(store.walk()) == []


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_bomb(store: LocalStore, pack: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ResourceExhausted):
        load(store, io.BytesIO(pack(images.make_tar(docker(bomb=bytes(64 << 20))))), hold)
    assert not os.listdir(f"{store.root}/ingest")


def test_bomb_as_a_layer(store: LocalStore) -> None:
    with pytest.raises(ResourceExhausted):
        add_layer(store, io.BytesIO(gzip.compress(bytes(64 << 20), 9)), hold)
    assert not os.listdir(f"{store.root}/ingest")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bent_archives_give_errors_of_ours_or_load(store: LocalStore, data: st.DataObject) -> None:
    raw = bytearray(images.make_tar(data.draw(st.sampled_from([layout(), docker()]))))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    try:
        load(store, io.BytesIO(bytes(raw[:cut] if data.draw(st.booleans()) else raw)), hold)
    except WharfieError:
        pass
    assert not os.listdir(f"{store.root}/ingest")
    for blob in store.walk():
        assert sha256(store.read(blob.digest, max_bytes=1 << 24)) == blob.digest
