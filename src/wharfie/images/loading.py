# SPDX-License-Identifier: Apache-2.0
"""`load`: blobs and names out of an OCI layout tar or a Docker archive of any age, read once from front to back.

Whatever order a writer chose, each file goes into the content store as it comes, named by the digest it turns out to
have (or must have, below `blobs/`); at the end the documents say which of them were images; the rest is garbage.
Nothing is ever written to a path that the archive names.
"""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import msgspec

from wharfie.archive.compression import detect
from wharfie.archive.entry import DIRECTORY, HARDLINK, REGULAR, SYMLINK, Entry
from wharfie.archive.scan import Scanner
from wharfie.content import Store
from wharfie.errdefs import DataLoss, InvalidArgument, NotFound
from wharfie.images import KIND_BLOB, Ref
from wharfie.images.unpacked import Peekable, inflate_any
from wharfie.images.walk import Image, is_attestation, open_image, parse_config, present_images
from wharfie.spec.digest import is_digest, sha256
from wharfie.spec.image import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT_BYTES,
    Descriptor,
    Manifest,
    decode_config,
    decode_index,
    encode,
)
from wharfie.spec.platform import Platform
from wharfie.spec.reference import Reference, parse_reference

MAX_MEMBERS = 65536
MAX_NAMES = 4096
_DOCUMENTS = frozenset({"oci-layout", "index.json", "manifest.json"})
_IGNORED = frozenset({"VERSION", "json", "repositories"})
"""Files of Docker's oldest layout that say nothing `manifest.json` does not."""

Keep = Callable[[Iterable[Ref]], None]
"""Holds things against garbage collection; called before they exist (`Lease.add`)."""


class ReadInto(Protocol):
    def read(self, n: int = -1, /) -> bytes: ...


class Loaded(NamedTuple):
    """One image of an archive. `names` may be empty. Its blobs are here; its layers are not unpacked yet."""

    target: Descriptor
    names: tuple[Reference, ...]
    image: Image


class _DockerEntry(msgspec.Struct):
    config: str = msgspec.field(name="Config")
    layers: list[str] = msgspec.field(name="Layers")
    repo_tags: list[str] | None = msgspec.field(name="RepoTags", default=None)


def load(store: Store, stream: ReadInto, keep: Keep, *, platform: Platform | None = None) -> list[Loaded]:
    """Read an archive (plain, or compressed by gzip, zstd, bzip2 or xz) and return its images.

    Shapes: with `platform`, only that platform of each image is asked for; others come along if they are there.
    Raises: InvalidArgument (no image archive), DataLoss (malformed, truncated, wrong digest, a document beyond 8 MiB),
            NotFound (the archive lacks a blob or the platform), ResourceExhausted (disk, compression bomb).
    After:  what was stored and belongs to no image (or to a failed load) is held by `keep` alone: garbage afterwards.
    """
    reader = _Reader(store, keep)
    reader.read(stream)
    return reader.images(platform)


class _Reader:
    def __init__(self, store: Store, keep: Keep) -> None:
        self._store = store
        self._keep = keep
        self._documents: dict[str, bytes] = {}
        self._files: dict[str, str] = {}
        self._links: dict[str, str] = {}

    def read(self, stream: ReadInto) -> None:
        scanner = Scanner(inflate_any(Peekable(stream)))
        for count, entry in enumerate(scanner):
            if count >= MAX_MEMBERS:
                raise DataLoss(f"load archive: it has more than {MAX_MEMBERS} members")
            path = entry.path.decode(errors="replace")
            if entry.kind == REGULAR:
                self._file(scanner, path, entry)
            elif entry.kind == SYMLINK:
                self._links[path] = posixpath.normpath(
                    posixpath.join(posixpath.dirname(path), entry.link.decode(errors="replace"))
                )
            elif entry.kind == HARDLINK:
                self._links[path] = entry.link.decode(errors="replace")
            elif entry.kind != DIRECTORY:
                raise DataLoss(f"load archive: {path!r} is a device or fifo")

    def _file(self, scanner: Scanner, path: str, entry: Entry) -> None:
        name = posixpath.basename(path)
        if path in _DOCUMENTS:
            if entry.size > MAX_DOCUMENT_BYTES:
                raise DataLoss(
                    f"load archive: {path} of {entry.size} bytes is larger than the {MAX_DOCUMENT_BYTES} that are accepted"
                )
            parts: list[bytes] = []
            scanner.data(lambda view: parts.append(bytes(view)))
            self._documents[path] = b"".join(parts)
        elif not path.startswith("blobs/") and path.count("/") > 1:  # no writer nests files so: a root file system
            raise _no_image(f"{path[:200]!r} is nothing an image archive has")
        elif name not in _IGNORED:
            expected = path.removeprefix("blobs/").replace("/", ":", 1) if path.startswith("blobs/") else None
            if expected is not None and not is_digest(expected):
                raise DataLoss(f"load archive: {path[:200]!r} is not named by a digest")
            self._files[path] = self._blob(scanner, entry, expected)

    def _blob(self, scanner: Scanner, entry: Entry, expected: str | None) -> str:
        if entry.extents is not None:
            raise DataLoss(f"load archive: {entry.path!r} is a sparse file")
        if expected is not None and self._store.has(expected):
            self._keep([Ref(KIND_BLOB, expected)])
            return expected
        writer = self._store.writer(f"load-{secrets.token_hex(16)}", total_bytes=entry.size, digest=expected)
        try:
            scanner.data(writer.write)
            digest = expected or writer.digest()
            self._keep([Ref(KIND_BLOB, digest)])
            writer.commit(entry.size, digest)
        except BaseException:
            writer.discard()
            raise
        return digest

    def images(self, platform: Platform | None) -> list[Loaded]:
        if "index.json" in self._documents and "oci-layout" in self._documents:
            loaded = list(self._from_layout(self._documents["index.json"], platform))
        elif "manifest.json" in self._documents:
            loaded = list(self._from_docker(self._docker_entries(), platform))
        else:
            raise _no_image("it has neither index.json with oci-layout nor manifest.json")
        if not loaded:
            raise InvalidArgument("load archive: it names no image")
        if sum(len(i.names) for i in loaded) > MAX_NAMES:
            raise DataLoss(f"load archive: it has more than {MAX_NAMES} names")
        return loaded

    def _from_layout(self, data: bytes, platform: Platform | None) -> Iterator[Loaded]:
        by_target: dict[str, tuple[Descriptor, list[Reference]]] = {}
        for entry in decode_index(data).manifests:
            if entry.media_type not in INDEX_TYPES | MANIFEST_TYPES or is_attestation(entry):
                continue
            target = Descriptor(entry.media_type, entry.digest, entry.size)
            names = by_target.setdefault(entry.digest, (target, []))[1]
            name = _annotated_name(entry.annotations or {})
            if name is not None and name not in names:
                names.append(name)
        docker_names = self._docker_names() if any(not names for _, names in by_target.values()) else {}
        for target, names in by_target.values():
            image = self._image(target, platform)
            yield Loaded(target, tuple(names) or docker_names.get(image.manifest.config.digest, ()), image)

    def _image(self, target: Descriptor, platform: Platform | None) -> Image:
        if not self._store.has(target.digest):
            raise NotFound(f"load archive: manifest {target.digest} is not in it")
        if self._store.info(target.digest).size_bytes != target.size:
            raise DataLoss(f"load archive: manifest {target.digest} has not the size that index.json gives")
        image = open_image(self._store, target, platform)
        whole = [i for i in present_images(self._store, target) if self._complete(i)]
        if not whole or (platform is not None and not self._complete(image)):
            missing = next(d.digest for d in image.manifest.layers if not self._store.has(d.digest))
            raise NotFound(f"load archive: layer {missing} is not in it")
        return image if self._complete(image) else whole[0]

    def _complete(self, image: Image) -> bool:
        return all(self._store.has(d.digest) for d in image.manifest.layers)

    def _docker_entries(self) -> list[_DockerEntry]:
        try:
            return msgspec.json.decode(self._documents["manifest.json"], type=list[_DockerEntry])
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as e:
            raise DataLoss(f"load archive: read manifest.json: {e}") from e

    def _docker_names(self) -> dict[str, tuple[Reference, ...]]:
        if "manifest.json" not in self._documents:
            return {}
        return {self._lookup(e.config): _references(e.repo_tags or ()) for e in self._docker_entries()}

    def _from_docker(self, entries: list[_DockerEntry], platform: Platform | None) -> Iterator[Loaded]:
        for entry in entries:
            config_digest = self._lookup(entry.config)
            raw = self._store.read(config_digest, max_bytes=MAX_DOCUMENT_BYTES)
            config = decode_config(raw)
            layers = [self._layer(path) for path in entry.layers]
            manifest = Manifest(Descriptor(DOCKER_CONFIG, config_digest, len(raw)), layers, media_type=DOCKER_MANIFEST)
            parse_config(manifest, raw)
            for layer, diff_id in zip(layers, config.rootfs.diff_ids, strict=True):
                if layer.media_type == DOCKER_LAYER and layer.digest != diff_id:
                    raise DataLoss(f"load archive: a layer has the digest {layer.digest}, its config says {diff_id}")
            document = encode(manifest)
            target = Descriptor(DOCKER_MANIFEST, sha256(document), len(document))
            self._keep([Ref(KIND_BLOB, target.digest)])
            self._store.put(document)
            yield Loaded(target, _references(entry.repo_tags or ()), open_image(self._store, target, platform))

    def _layer(self, path: str) -> Descriptor:
        digest = self._lookup(path)
        size = self._store.info(digest).size_bytes
        with open(self._store.path(digest), "rb") as f:
            kind = detect(f.read(8)) or "none"
        media_type = {"none": DOCKER_LAYER, "gzip": DOCKER_LAYER_GZIP, "zstd": DOCKER_LAYER_ZSTD}[kind]
        return Descriptor(media_type, digest, size)

    def _lookup(self, path: str) -> str:
        """Digest of the member that `path` names, through links inside the archive."""
        at = posixpath.normpath(path)
        for _ in range(8):
            if at in self._files:
                return self._files[at]
            if at not in self._links:
                break
            at = self._links[at]
        raise NotFound(f"load archive: {path[:200]!r}, which manifest.json names, is not in it")


def _no_image(why: str) -> InvalidArgument:
    return InvalidArgument(
        f"load archive: {why}, so it is no image",
        hint="to make an image of a root file system's tar, use: wharfie import",
    )


def _annotated_name(annotations: dict[str, str]) -> Reference | None:
    """A full name, if the entry has one; a lone tag (as skopeo and umoci write it) is no name of an image."""
    for key in ("io.containerd.image.name", "org.opencontainers.image.ref.name"):
        text = annotations.get(key, "")
        if text and (key.startswith("io.containerd") or "/" in text or ":" in text):
            return _references([text])[0]
    return None


def _references(texts: Iterable[str]) -> tuple[Reference, ...]:
    return tuple(parse_reference(t) for t in texts)
