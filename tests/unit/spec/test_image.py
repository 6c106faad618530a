# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from wharfie.errdefs import DataLoss
from wharfie.spec import image

D = "sha256:" + "a" * 64


def descriptor(**more: object) -> dict[str, object]:
    return {"mediaType": image.OCI_LAYER, "digest": D, "size": 1, **more}


def raw(**document: object) -> bytes:
    return json.dumps(document).encode()


def test_manifest() -> None:
    m = image.decode_manifest(
        raw(schemaVersion=2, config=descriptor(), layers=[descriptor(urls=["http://x"])], extra=1)
    )
    assert (m.config.digest, m.layers[0].urls) == (D, ["http://x"])


def test_index_platform() -> None:
    i = image.decode_index(
        raw(manifests=[descriptor(platform={"os": "windows", "architecture": "amd64", "os.version": "10.0.1"})])
    )
    platform = i.manifests[0].platform
    assert platform is not None
    assert platform.value().os_version == "10.0.1"


@pytest.mark.parametrize(
    "data",
    [
        raw(config=descriptor(), layers=[descriptor(digest="sha256:../x")]),
        raw(config=descriptor(size=-1), layers=[]),
        raw(config=descriptor(size="1"), layers=[]),
        raw(layers=[]),
        raw(config=descriptor(), layers=[], manifests=[]),
        raw(config=descriptor(), layers=[], fsLayers=[]),
        b"", b"nonsense", b"\xff", b"[" * 50000,
        b" " * (image.MAX_DOCUMENT_BYTES + 1),
    ],
    ids=range(11),
)  # fmt: skip
def test_hostile_manifests(data: bytes) -> None:
    with pytest.raises(DataLoss):
        image.decode_manifest(data)


def test_index_that_is_also_a_manifest() -> None:
    """CVE-2021-41190."""
    with pytest.raises(DataLoss, match="another kind"):
        image.decode_index(raw(manifests=[descriptor()], layers=[], config=descriptor()))


def test_config() -> None:
    c = image.decode_config(
        raw(architecture="arm64", os="linux", config={"Cmd": ["a"], "Volumes": {"/v": {}}, "Unknown": 1},
            rootfs={"type": "layers", "diff_ids": [D]})
    )  # fmt: skip
    assert str(c.platform()) == "linux/arm64"
    assert c.config is not None
    assert (c.config.cmd, c.config.volumes) == (["a"], {"/v": {}})


def test_old_config_without_a_platform_is_linux_amd64() -> None:
    assert str(image.decode_config(b"{}").platform()) == "linux/amd64"


@pytest.mark.parametrize("data", [raw(rootfs={"diff_ids": ["x"]}), raw(config={"Env": "A=1"}), raw(config=[])])
def test_hostile_configs(data: bytes) -> None:
    with pytest.raises(DataLoss):
        image.decode_config(data)


def test_null_is_absent() -> None:
    c = image.decode_config(raw(config={"Env": None, "Volumes": None, "Healthcheck": None}, history=None))
    assert c.config is not None
    assert c.config.env is None


def test_encoding_is_stable() -> None:
    m = image.Manifest(config=image.Descriptor(image.OCI_CONFIG, D, 1), layers=[])
    assert image.encode(m) == image.encode(image.decode_manifest(image.encode(m)))
    assert b"annotations" not in image.encode(m)
