# SPDX-License-Identifier: Apache-2.0
"""`save`: one tar that is an OCI image layout and a Docker archive at once, so that every reader finds its own.

Spec: OCI image-layout.md; Docker's `manifest.json` as written by docker save since 25. The documents come first, then
each blob once, in a fixed order with fixed times: the same images give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from wharfie.content import Store
from wharfie.errdefs import InvalidArgument
from wharfie.images.walk import open_image, travelling
from wharfie.spec.image import OCI_INDEX, Descriptor
from wharfie.spec.platform import Platform
from wharfie.spec.reference import Reference

CHUNK_BYTES = 1 << 20
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class SaveItem(NamedTuple):
    """One image to save, under all the names it should have when it is loaded."""

    target: Descriptor
    names: tuple[Reference, ...] = ()


def save(store: Store, items: Sequence[SaveItem], *, platform: Platform | None = None) -> Iterator[bytes]:
    """The archive as chunks. All that can be wrong is found before the first chunk.

    Shapes: an image whose platforms are all here is saved with all of them, else (or with `platform`) with one.
    Raises: InvalidArgument (nothing to save), NotFound (platform; layers that are here only unpacked), DataLoss.
    """
    if not items:
        raise InvalidArgument("save: no image is given")
    index: list[dict[str, Any]] = []
    docker: list[dict[str, Any]] = []
    blobs: dict[str, int] = {}
    for item in items:
        shown = item.names[0].familiar() if item.names else item.target.digest
        travel = travelling(store, item.target, platform, operation=f'save "{shown}"', name=shown)
        top = travel.documents[-1]
        for descriptor in (*travel.documents, *travel.blobs):
            blobs[descriptor.digest] = store.info(descriptor.digest).size_bytes
        index += _index_entries(top, item.names)
        docker.append(_docker_entry(store, item, platform))
    return _chunks(store, _documents(index, docker), blobs)


def _index_entries(top: Descriptor, names: Sequence[Reference]) -> list[dict[str, Any]]:
    plain: dict[str, Any] = {"mediaType": top.media_type, "digest": top.digest, "size": top.size}
    if top.platform is not None:
        plain["platform"] = msgspec.to_builtins(top.platform)
    entries = []
    for name in names:
        annotations = {"io.containerd.image.name": str(name)}
        if name.tag:
            annotations["org.opencontainers.image.ref.name"] = name.tag
        entries.append({**plain, "annotations": annotations})
    return entries or [plain]


def _docker_entry(store: Store, item: SaveItem, platform: Platform | None) -> dict[str, Any]:
    image = open_image(store, item.target, platform)
    return {
        "Config": _path(image.manifest.config.digest),
        "RepoTags": [n.familiar() for n in item.names if n.tag and not n.digest] or None,
        "Layers": [_path(d.digest) for d in image.manifest.layers],
    }


def _documents(index: list[dict[str, Any]], docker: list[dict[str, Any]]) -> dict[str, bytes]:
    return {
        "oci-layout": _LAYOUT,
        "index.json": msgspec.json.encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": index}),
        "manifest.json": msgspec.json.encode(docker),
    }


def _path(digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    return f"blobs/{algorithm}/{encoded}"


def _chunks(store: Store, documents: dict[str, bytes], blobs: dict[str, int]) -> Iterator[bytes]:
    for name, data in documents.items():
        yield _header(name, len(data)) + data + _padding(len(data))
    yield _header("blobs", 0, directory=True)
    for algorithm in sorted({d.partition(":")[0] for d in blobs}):
        yield _header(f"blobs/{algorithm}", 0, directory=True)
    for digest in sorted(blobs):
        size = blobs[digest]
        yield _header(_path(digest), size)
        with os.fdopen(store.open(digest), "rb", buffering=0) as f:
            while chunk := f.read(CHUNK_BYTES):
                yield chunk
        yield _padding(size)
    yield bytes(1024)


def _padding(size: int) -> bytes:
    return bytes(-size % 512)


def _header(name: str, size: int, *, directory: bool = False) -> bytes:
    import tarfile

    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o755 if directory else 0o644
    info.type = tarfile.DIRTYPE if directory else tarfile.REGTYPE
    return info.tobuf(tarfile.GNU_FORMAT)
