# SPDX-License-Identifier: Apache-2.0
"""Images out of layers: what `import`, `commit` and the builder's exporter end with."""

from __future__ import annotations

import hashlib
import secrets
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from wharfie.archive.compression import detect, inflate
from wharfie.content import Store
from wharfie.errdefs import InvalidArgument
from wharfie.images import KIND_BLOB, Ref
from wharfie.images.unpacked import Peekable, inflate_any
from wharfie.images.walk import Image, parse_config
from wharfie.spec.digest import sha256
from wharfie.spec.image import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    ContainerConfig,
    Descriptor,
    History,
    ImageConfig,
    Manifest,
    RootFS,
    encode,
)
from wharfie.spec.platform import Platform

Keep = Callable[[Iterable[Ref]], None]
_LAYER_TYPES = {"none": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_GZIP_LEVEL = 1


class ReadInto(Protocol):
    def read(self, n: int = -1, /) -> bytes: ...


class NewLayer(NamedTuple):
    """A layer blob that is stored. `size_bytes` of the uncompressed tar."""

    descriptor: Descriptor
    diff_id: str
    size_bytes: int


def add_layer(store: Store, stream: ReadInto, keep: Keep, *, compression: str = "gzip") -> NewLayer:
    """Store a layer tar as a blob. A stream that is gzip or zstd already is kept as it is; others are compressed.

    Units:  the same tar gives the same blob on every run of one version of Wharfie.
    Raises: DataLoss (broken compression), ResourceExhausted (disk, bomb), InvalidArgument (`compression`).
    """
    peekable = Peekable(stream)
    kind = detect(peekable.peek(6))
    writer = store.writer(f"layer-new-{secrets.token_hex(16)}")
    try:
        plain = hashlib.sha256()
        size_bytes = 0
        if kind in {"gzip", "zstd"}:
            for chunk in inflate(_Tee(peekable, writer.write), kind):
                plain.update(chunk)
                size_bytes += len(chunk)
        else:
            kind = compression
            pack, finish = _compressor(compression)
            for chunk in inflate_any(peekable):
                plain.update(chunk)
                size_bytes += len(chunk)
                writer.write(pack(chunk))
            writer.write(finish())
        digest, blob_bytes = writer.digest(), writer.offset
        keep([Ref(KIND_BLOB, digest)])
        writer.commit(blob_bytes, digest)
    except BaseException:
        writer.discard()
        raise
    return NewLayer(Descriptor(_LAYER_TYPES[kind], digest, blob_bytes), f"sha256:{plain.hexdigest()}", size_bytes)


def add_image(store: Store, config: ImageConfig, layers: Sequence[Descriptor], keep: Keep) -> Image:
    """Store config and manifest. Raises DataLoss where `layers` and `config.rootfs.diff_ids` differ in number."""
    raw = encode(config)
    manifest = Manifest(Descriptor(OCI_CONFIG, sha256(raw), len(raw)), list(layers), media_type=OCI_MANIFEST)
    parse_config(manifest, raw)
    document = encode(manifest)
    target = Descriptor(OCI_MANIFEST, sha256(document), len(document))
    keep([Ref(KIND_BLOB, manifest.config.digest), Ref(KIND_BLOB, target.digest)])
    store.put(raw)
    store.put(document)
    return Image(target, target, manifest, config, raw)


def commit_image(
    store: Store,
    base: Image | None,
    layer: NewLayer | None,
    config: ContainerConfig,
    keep: Keep,
    *,
    created: str,
    author: str = "",
    comment: str = "",
    created_by: str = "",
    platform: Platform | None = None,
) -> Image:
    """`base` plus one layer (None: nothing changed) and a new configuration. Its blobs must be here.

    Shapes: without a base, `platform` says what it is for. `created` is RFC 3339.
    Raises: InvalidArgument (neither base nor platform), DataLoss, ResourceExhausted.
    """
    if base is None and platform is None:
        raise InvalidArgument("make image: neither a base nor a platform is given")
    old = base.config if base is not None else ImageConfig()
    made_for = platform or old.platform()
    entry = History(created, created_by, author, comment, empty_layer=layer is None)
    new = ImageConfig(
        architecture=old.architecture or made_for.architecture,
        os=old.os or made_for.os,
        variant=old.variant or made_for.variant,
        os_version=old.os_version or made_for.os_version,
        os_features=list(old.os_features),
        created=created,
        author=author or old.author,
        config=config,
        rootfs=RootFS("layers", [*old.rootfs.diff_ids, *([layer.diff_id] if layer else [])]),
        history=[*(old.history or []), entry],
    )
    layers = list(base.manifest.layers) if base is not None else []
    return add_image(store, new, [*layers, *([layer.descriptor] if layer else [])], keep)


class _Tee:
    """A stream that shows every byte it hands on."""

    def __init__(self, stream: ReadInto, show: Callable[[bytes], object]) -> None:
        self._stream = stream
        self._show = show

    def read(self, n: int = -1, /) -> bytes:
        data = self._stream.read(n)
        if data:
            self._show(data)
        return data


def _compressor(kind: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    if kind == "none":
        return (lambda data: data), (lambda: b"")
    if kind == "zstd":
        import zstandard

        z = zstandard.ZstdCompressor(level=3, write_checksum=True).compressobj()
        return z.compress, z.flush
    if kind != "gzip":
        raise InvalidArgument(f"compress layer: unknown compression {kind!r}", hint="known are none, gzip and zstd")
    try:
        from isal import isal_zlib
    except ImportError:  # no wheel for this machine
        engine: Any = zlib
    else:
        engine = isal_zlib
    g = engine.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
    return g.compress, g.flush
