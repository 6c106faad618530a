# SPDX-License-Identifier: Apache-2.0
"""OCI image-spec 1.1 and Docker schema 2 documents as typed values.

Decoding is tolerant of unknown fields and strict about the types of known ones; `decode_*` raise DataLoss.
"""

from __future__ import annotations

from typing import Any

import msgspec

from wharfie.errdefs import DataLoss
from wharfie.spec.digest import is_digest
from wharfie.spec.platform import Platform, normalize

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
LAYER_COMPRESSION = {
    OCI_LAYER: "none", DOCKER_LAYER: "none",
    OCI_LAYER_GZIP: "gzip", DOCKER_LAYER_GZIP: "gzip", DOCKER_FOREIGN: "gzip",
    OCI_LAYER_ZSTD: "zstd", DOCKER_LAYER_ZSTD: "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "none",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
}  # fmt: skip
"""Layer media type -> compression ("none", "gzip", "zstd")."""

MAX_DOCUMENT_BYTES = 8 << 20
"""Manifests, indexes and configs larger than this are refused (CVE-2023-25153)."""


class PlatformJSON(msgspec.Struct, omit_defaults=True):
    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: list[str] = msgspec.field(name="os.features", default_factory=list)
    variant: str = ""

    def value(self) -> Platform:
        return normalize(self.os, self.architecture, self.variant, self.os_version, tuple(self.os_features))


class Descriptor(msgspec.Struct, omit_defaults=True, rename="camel"):
    """OCI descriptor.md. `size` in bytes. `digest` is checked by `check()`, which every decoder calls."""

    media_type: str
    digest: str
    size: int
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    data: str | None = None
    platform: PlatformJSON | None = None
    artifact_type: str | None = None

    def check(self) -> None:
        if not is_digest(self.digest):
            raise DataLoss(f"read descriptor: digest {self.digest[:100]!r} is malformed")
        if self.size < 0:
            raise DataLoss(f"read descriptor {self.digest}: size {self.size} is negative")


class Index(msgspec.Struct, omit_defaults=True, rename="camel"):
    manifests: list[Descriptor]
    schema_version: int = 2
    media_type: str = ""
    annotations: dict[str, str] | None = None
    artifact_type: str | None = None
    subject: Descriptor | None = None


class Manifest(msgspec.Struct, omit_defaults=True, rename="camel"):
    config: Descriptor
    layers: list[Descriptor]
    schema_version: int = 2
    media_type: str = ""
    annotations: dict[str, str] | None = None
    artifact_type: str | None = None
    subject: Descriptor | None = None


class RootFS(msgspec.Struct):
    type: str = "layers"
    diff_ids: list[str] = msgspec.field(default_factory=list)


class History(msgspec.Struct, omit_defaults=True):
    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class Healthcheck(msgspec.Struct, omit_defaults=True, rename="pascal"):
    """Durations in nanoseconds, as on the wire."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(msgspec.Struct, omit_defaults=True):
    """The `config` object of an image config; keys are Docker's."""

    user: str = msgspec.field(name="User", default="")
    exposed_ports: dict[str, Any] | None = msgspec.field(name="ExposedPorts", default=None)
    env: list[str] | None = msgspec.field(name="Env", default=None)
    entrypoint: list[str] | None = msgspec.field(name="Entrypoint", default=None)
    cmd: list[str] | None = msgspec.field(name="Cmd", default=None)
    volumes: dict[str, Any] | None = msgspec.field(name="Volumes", default=None)
    working_dir: str = msgspec.field(name="WorkingDir", default="")
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)
    stop_signal: str = msgspec.field(name="StopSignal", default="")
    args_escaped: bool = msgspec.field(name="ArgsEscaped", default=False)
    healthcheck: Healthcheck | None = msgspec.field(name="Healthcheck", default=None)
    on_build: list[str] | None = msgspec.field(name="OnBuild", default=None)
    shell: list[str] | None = msgspec.field(name="Shell", default=None)


class ImageConfig(msgspec.Struct, omit_defaults=True):
    """OCI config.md / Docker image config."""

    architecture: str = ""
    os: str = ""
    created: str | None = None
    author: str = ""
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: list[str] = msgspec.field(name="os.features", default_factory=list)
    config: ContainerConfig | None = None
    rootfs: RootFS = msgspec.field(default_factory=RootFS)
    history: list[History] | None = None

    def platform(self) -> Platform:
        return normalize(
            self.os or "linux", self.architecture or "amd64", self.variant, self.os_version, tuple(self.os_features)
        )


def _decode(kind: str, data: bytes, type_: Any) -> Any:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise DataLoss(f"read {kind}: {len(data)} bytes are more than the {MAX_DOCUMENT_BYTES} that are accepted")
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as e:
        raise DataLoss(f"read {kind}: {e}") from e


def decode_index(data: bytes) -> Index:
    index: Index = _decode("index", data, Index)
    _refuse_hybrid("index", data, ("config", "layers", "fsLayers"))
    for d in index.manifests:
        d.check()
    return index


def decode_manifest(data: bytes) -> Manifest:
    manifest: Manifest = _decode("manifest", data, Manifest)
    _refuse_hybrid("manifest", data, ("manifests", "fsLayers"))
    for d in (manifest.config, *manifest.layers):
        d.check()
    return manifest


def decode_config(data: bytes) -> ImageConfig:
    config: ImageConfig = _decode("image config", data, ImageConfig)
    for d in config.rootfs.diff_ids:
        if not is_digest(d):
            raise DataLoss(f"read image config: diff_id {d[:100]!r} is malformed")
    return config


def _refuse_hybrid(kind: str, data: bytes, foreign: tuple[str, ...]) -> None:
    """A document that can be read as two kinds is refused (CVE-2021-41190)."""
    keys: dict[str, msgspec.Raw] = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    both = [k for k in foreign if k in keys]
    if both:
        raise DataLoss(f"read {kind}: it also has {', '.join(both)}, so it could be read as another kind of document")


def encode(document: Any) -> bytes:
    """Canonical bytes of a document: what is hashed and stored. `schemaVersion` is always in it; registries insist."""
    if isinstance(document, Index | Manifest):
        return msgspec.json.encode({"schemaVersion": document.schema_version, **msgspec.to_builtins(document)})
    return msgspec.json.encode(document)
