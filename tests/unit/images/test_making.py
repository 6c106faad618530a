# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import io
import json
import lzma
import os
from pathlib import Path

import pytest
import zstandard

from wharfie.content.local import LocalStore, open_store
from wharfie.errdefs import DataLoss, InvalidArgument
from wharfie.images.making import add_layer, commit_image
from wharfie.spec.digest import sha256
from wharfie.spec.image import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, ContainerConfig
from wharfie.spec.platform import parse_platform

TAR = os.urandom(700_000) + bytes(500_000)
AMD = parse_platform("linux/amd64")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return open_store(str(tmp_path / "content"))


def hold(_: object) -> None:
    pass


@pytest.mark.parametrize(
    ("wanted", "media_type"), [("gzip", OCI_LAYER_GZIP), ("zstd", OCI_LAYER_ZSTD), ("none", OCI_LAYER)]
)
def test_plain_streams_are_compressed_the_same_every_time(store: LocalStore, wanted: str, media_type: str) -> None:
    kept: list[object] = []
    layer = add_layer(store, io.BytesIO(TAR), kept.extend, compression=wanted)
    assert layer.diff_id == sha256(TAR)
    assert layer.size_bytes == len(TAR)
    assert layer.descriptor.media_type == media_type
    assert [r.id for r in kept] == [layer.descriptor.digest]  # type: ignore[attr-defined]
    blob = store.read(layer.descriptor.digest, max_bytes=1 << 23)
    assert len(blob) == layer.descriptor.size
    plain = {"gzip": gzip.decompress, "zstd": zstandard.ZstdDecompressor().decompressobj().decompress, "none": bytes}[
        wanted
    ](blob)
    assert plain == TAR
    assert add_layer(store, io.BytesIO(TAR), hold, compression=wanted) == layer


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_streams_are_kept_as_they_are(store: LocalStore, pack) -> None:
    data = pack(TAR)
    layer = add_layer(store, io.BytesIO(data), hold)
    assert layer.diff_id == sha256(TAR)
    assert layer.descriptor.digest == sha256(data)


def test_xz_is_recompressed(store: LocalStore) -> None:
    layer = add_layer(store, io.BytesIO(lzma.compress(TAR, preset=0)), hold)
    assert layer.diff_id == sha256(TAR)
    assert layer.descriptor.media_type == OCI_LAYER_GZIP


@pytest.mark.parametrize("data", [gzip.compress(TAR)[:-10], lzma.compress(TAR, preset=0)[:-10]])
def test_truncated_streams_leave_nothing(store: LocalStore, data: bytes) -> None:
    with pytest.raises(DataLoss):
        add_layer(store, io.BytesIO(data), hold)
    assert list(store.walk()) == []
    assert os.listdir(f"{store.root}/ingest") == []


def test_unknown_compression(store: LocalStore) -> None:
    with pytest.raises(InvalidArgument, match="lz4"):
        add_layer(store, io.BytesIO(TAR), hold, compression="lz4")


def test_commit_adds_to_its_base(store: LocalStore) -> None:
    layer = add_layer(store, io.BytesIO(TAR), hold)
    base = commit_image(
        store, None, layer, ContainerConfig(cmd=["a"]), hold, created="2026-01-01T00:00:00Z", platform=AMD
    )
    same = commit_image(
        store, base, None, ContainerConfig(cmd=["b"]), hold, created="2026-01-02T00:00:00Z", author="ann", comment="hi"
    )
    assert same.diff_ids == base.diff_ids
    history = same.config.history or []
    assert [h.empty_layer for h in history] == [False, True]
    assert (history[1].author, history[1].comment) == ("ann", "hi")
    document = json.loads(same.config_bytes)
    assert document["config"] == {"Cmd": ["b"]}
    assert document["rootfs"] == {"type": "layers", "diff_ids": base.diff_ids}
    assert json.loads(store.read(same.target.digest, max_bytes=10000))["schemaVersion"] == 2
    with pytest.raises(InvalidArgument):
        commit_image(store, None, layer, ContainerConfig(), hold, created="")
