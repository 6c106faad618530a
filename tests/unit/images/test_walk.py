# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
from pathlib import Path

import pytest

from wharfie.content.local import LocalStore, open_store
from wharfie.errdefs import DataLoss, NotFound, Unsupported
from wharfie.images import KIND_BLOB, KIND_LAYER, KIND_SNAPSHOT, Ref
from wharfie.images.making import add_layer, commit_image
from wharfie.images.walk import (
    Image,
    by_preference,
    closure,
    garbage,
    offered_platforms,
    open_image,
    parse_manifest,
    references,
)
from wharfie.spec.digest import chain_ids
from wharfie.spec.image import OCI_INDEX, OCI_MANIFEST, ContainerConfig, Descriptor, Index, PlatformJSON, encode
from wharfie.spec.platform import Platform, parse_platform


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return open_store(str(tmp_path / "content"))


def hold(_: object) -> None:
    pass


def make(store: LocalStore, platform: str, *layers: bytes) -> Image:
    image = None
    for data in layers:
        layer = add_layer(store, io.BytesIO(data), hold)
        image = commit_image(
            store,
            image,
            layer,
            ContainerConfig(),
            hold,
            created="2026-01-01T00:00:00Z",
            platform=parse_platform(platform),
        )
    assert image is not None
    return image


def index(store: LocalStore, *images: Image) -> Descriptor:
    entries = []
    for image in images:
        p = image.platform
        shown = PlatformJSON(p.architecture, p.os, variant=p.variant)
        entries.append(Descriptor(OCI_MANIFEST, image.target.digest, image.target.size, platform=shown))
    data = encode(Index(entries, media_type=OCI_INDEX))
    return Descriptor(OCI_INDEX, store.put(data), len(data))


def entry(os: str, arch: str, variant: str = "", version: str = "", **more: object) -> Descriptor:
    shown = PlatformJSON(arch, os, os_version=version, variant=variant)
    return Descriptor(OCI_MANIFEST, "sha256:" + "0" * 64, 1, platform=shown, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "order"),
    [
        ("linux/amd64", ["amd64", "386"]),
        ("linux/arm/v7", ["arm/v7", "arm/v6"]),
        ("linux/arm64", ["arm64", "arm/v7", "arm/v6"]),
        ("linux/386", ["386"]),
        ("linux/s390x", []),
    ],
)
def test_by_preference(wanted: str, order: list[str]) -> None:
    entries = [
        entry("linux", a, v) for a, v in (("386", ""), ("arm", "v6"), ("arm", "v7"), ("amd64", ""), ("arm64", ""))
    ]
    found = by_preference(Index([*entries, entry("windows", "amd64")]), parse_platform(wanted))
    got = [str(d.platform.value()).removeprefix("linux/") for d in found if d.platform]
    assert got[: len(order)] == order


def test_windows_builds_are_preferred_by_build() -> None:
    entries = [entry("windows", "amd64", version=v) for v in ("10.0.20348.2", "10.0.17763.9")]
    best = by_preference(Index(entries), Platform("windows", "amd64", "", "10.0.17763.1"))[0]
    assert best is entries[1]


def test_attestations_are_no_platform() -> None:
    attestation = entry("unknown", "unknown", annotations={"vnd.docker.reference.type": "attestation-manifest"})
    both = Index([attestation, entry("linux", "amd64")])
    assert by_preference(both, parse_platform("linux/amd64")) == [both.manifests[1]]
    assert offered_platforms(both) == ["linux/amd64"]


def test_open_image_prefers_what_is_here(store: LocalStore) -> None:
    arm, amd = make(store, "linux/arm64", b"1" * 512), make(store, "linux/amd64", b"2" * 512)
    target = index(store, arm, amd)
    assert open_image(store, target, parse_platform("linux/arm64")).descriptor.digest == arm.target.digest
    store.delete(amd.target.digest)
    assert open_image(store, target).descriptor.digest == arm.target.digest
    with pytest.raises(NotFound, match="no image for linux/amd64; there is: linux/arm64") as e:
        open_image(store, target, parse_platform("linux/amd64"))
    assert "pull with --platform linux/amd64" in (e.value.hint or "")
    store.delete(target.digest)
    with pytest.raises(NotFound, match="none of its platforms"):
        open_image(store, target)


def test_references_name_everything_that_is_here(store: LocalStore) -> None:
    one = make(store, "linux/amd64", b"1" * 512, b"2" * 512)
    refs = references(store, one.target)
    assert set(refs) == {
        Ref(KIND_BLOB, one.target.digest), Ref(KIND_BLOB, one.manifest.config.digest),
        *(Ref(KIND_BLOB, d.digest) for d in one.manifest.layers),
        *(Ref(KIND_LAYER, d) for d in one.diff_ids),
        *(Ref(KIND_SNAPSHOT, c) for c in chain_ids(one.diff_ids)),
    }  # fmt: skip
    assert len(refs) == len(set(refs))


def test_garbage_spares_what_others_share(store: LocalStore) -> None:
    one = make(store, "linux/amd64", b"1" * 512, b"2" * 512)
    two = make(store, "linux/amd64", b"1" * 512, b"3" * 512)
    gone = garbage(store, [one.target], [two.target])
    assert Ref(KIND_LAYER, one.diff_ids[1]) in gone
    assert Ref(KIND_LAYER, one.diff_ids[0]) not in gone
    assert garbage(store, [one.target], [one.target]) == []


def test_closure_is_whole_or_nothing(store: LocalStore) -> None:
    one, two = make(store, "linux/amd64", b"1" * 512), make(store, "linux/arm64", b"1" * 512)
    target = index(store, one, two)
    whole = closure(store, target)
    assert whole is not None
    assert [d.digest for d in whole.documents] == [one.target.digest, two.target.digest, target.digest]
    assert len(whole.blobs) == 3  # the layer is shared
    store.delete(one.manifest.layers[0].digest)
    assert closure(store, target) is None


def test_artifacts_are_refused(store: LocalStore) -> None:
    helm = b"""{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json",
        "digest":"sha256:%s","size":2},"layers":[]}""" % (b"0" * 64)
    with pytest.raises(Unsupported, match=r"no container image but application/vnd\.cncf\.helm"):
        parse_manifest(Descriptor(OCI_MANIFEST, "sha256:" + "0" * 64, len(helm)), helm)
    with pytest.raises(DataLoss):
        parse_manifest(Descriptor(OCI_MANIFEST, "sha256:" + "0" * 64, 2), b"{}")
