# SPDX-License-Identifier: Apache-2.0
"""Walking an image: index -> manifest -> config and layers; which platform; what it all holds on to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from wharfie.content import Store
from wharfie.errdefs import DataLoss, NotFound, Unsupported
from wharfie.images import KIND_BLOB, KIND_LAYER, KIND_SNAPSHOT, Ref
from wharfie.spec.digest import chain_ids
from wharfie.spec.image import (
    CONFIG_TYPES,
    DOCKER_FOREIGN,
    INDEX_TYPES,
    LAYER_COMPRESSION,
    MANIFEST_TYPES,
    MAX_DOCUMENT_BYTES,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    decode_config,
    decode_index,
    decode_manifest,
)
from wharfie.spec.platform import Platform, host_platform, match_rank

MAX_DEPTH = 4
MAX_LAYERS = 1024


class Image(NamedTuple):
    """One platform's image, documents decoded. `target` is what the name points to, `descriptor` this manifest."""

    target: Descriptor
    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig
    config_bytes: bytes

    @property
    def platform(self) -> Platform:
        return self.config.platform()

    @property
    def diff_ids(self) -> list[str]:
        return self.config.rootfs.diff_ids


def parse_index(descriptor: Descriptor, data: bytes) -> Index:
    """Raises DataLoss: malformed, hybrid (CVE-2021-41190), or of another type than its descriptor says."""
    index = decode_index(data)
    _same_type(descriptor, index.media_type, INDEX_TYPES)
    return index


def parse_manifest(descriptor: Descriptor, data: bytes) -> Manifest:
    """Raises DataLoss as `parse_index`; Unsupported where it is an artifact that cannot be run."""
    manifest = decode_manifest(data)
    _same_type(descriptor, manifest.media_type, MANIFEST_TYPES)
    if manifest.config.media_type not in CONFIG_TYPES:
        raise Unsupported(
            f"read manifest {descriptor.digest}: it is no container image but {manifest.artifact_type or manifest.config.media_type}"
        )
    if len(manifest.layers) > MAX_LAYERS:
        raise DataLoss(f"read manifest {descriptor.digest}: {len(manifest.layers)} layers are more than {MAX_LAYERS}")
    for layer in manifest.layers:
        if layer.media_type not in LAYER_COMPRESSION:
            raise Unsupported(f"read manifest {descriptor.digest}: layers of type {layer.media_type!r} are not known")
    return manifest


def parse_config(manifest: Manifest, data: bytes) -> ImageConfig:
    """Raises DataLoss, also where manifest and config do not have the same number of layers."""
    config = decode_config(data)
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        raise DataLoss(
            f"read image config {manifest.config.digest}: {len(config.rootfs.diff_ids)} diff_ids for {len(manifest.layers)} layers"
        )
    return config


def _same_type(descriptor: Descriptor, own: str, known: frozenset[str]) -> None:
    if descriptor.media_type not in known:
        raise Unsupported(f"read {descriptor.digest}: media type {descriptor.media_type!r} is not known")
    if own and own != descriptor.media_type:
        raise DataLoss(
            f"read {descriptor.digest}: it calls itself {own!r}, its descriptor says {descriptor.media_type!r}"
        )


def is_attestation(descriptor: Descriptor) -> bool:
    """Index entries that carry provenance and the like: they say platform unknown/unknown."""
    if (descriptor.annotations or {}).get("vnd.docker.reference.type"):
        return True
    return descriptor.platform is not None and descriptor.platform.os == "unknown"


def by_preference(index: Index, wanted: Platform) -> list[Descriptor]:
    """Entries that can serve `wanted`, best first. Entries without a platform come last: only their config tells."""
    ranked: list[tuple[int, int, int, Descriptor]] = []
    for position, entry in enumerate(index.manifests):
        if is_attestation(entry) or entry.media_type not in MANIFEST_TYPES | INDEX_TYPES:
            continue
        if entry.platform is None or not entry.platform.architecture:
            ranked.append((1000, 0, position, entry))
            continue
        offered = entry.platform.value()
        rank = match_rank(wanted, offered)
        if rank is not None:
            same_build = not wanted.os_version or _build(wanted.os_version) == _build(offered.os_version)
            version = offered.variant[1:]
            newer = int(version) if version.isdigit() else 0
            ranked.append((rank + (0 if same_build else 100), -newer, position, entry))
    return [entry for *_, entry in sorted(ranked, key=lambda r: r[:3])]


def _build(os_version: str) -> list[str]:
    return os_version.split(".")[:3]


def offered_platforms(index: Index) -> list[str]:
    found = []
    for entry in index.manifests:
        if entry.platform is not None and entry.platform.os and not is_attestation(entry):
            version = f" ({entry.platform.os_version})" if entry.platform.os_version else ""
            found.append(f"{entry.platform.value()}{version}")
    return list(dict.fromkeys(found))


def wrong_platform(operation: str, wanted: Platform, offered: list[str]) -> NotFound:
    shown = ", ".join(offered[:20]) or "nothing that says its platform"
    hint = f"choose one of them, for example --platform {offered[0].partition(' ')[0]}" if offered else None
    return NotFound(f"{operation}: no image for {wanted}; there is: {shown}", hint=hint)


def open_image(store: Store, target: Descriptor, wanted: Platform | None = None, *, name: str = "") -> Image:
    """The image of `target` for a platform, from the content store alone.

    Shapes: without `wanted`, the best for this host among the platforms that are here, else the first that is.
    Raises: NotFound (platform not in the index, or not pulled), DataLoss, Unsupported.
    """
    operation = f'open image "{name or target.digest}"'
    images = list(present_images(store, target))
    best: tuple[int, Image] | None = None
    for image in images:
        rank = match_rank(wanted or host_platform(), image.platform)
        if rank is not None and (best is None or rank < best[0]):
            best = (rank, image)
    if best is not None:
        return best[1]
    if wanted is None and images:
        return images[0]
    if wanted is None:
        raise NotFound(f"{operation}: none of its platforms is on this machine", hint="pull it again")
    error = wrong_platform(operation, wanted, [str(i.platform) for i in images])
    if target.media_type in INDEX_TYPES and store.has(target.digest):
        index = parse_index(target, store.read(target.digest, max_bytes=MAX_DOCUMENT_BYTES))
        if by_preference(index, wanted):
            error.hint = f"the registry has it: pull with --platform {wanted}"
    raise error


def present_images(store: Store, target: Descriptor) -> Iterator[Image]:
    """Every platform of `target` whose manifest and config are here."""
    for descriptor, manifest in _manifests(store, target):
        if store.has(manifest.config.digest):
            data = store.read(manifest.config.digest, max_bytes=MAX_DOCUMENT_BYTES)
            yield Image(target, descriptor, manifest, parse_config(manifest, data), data)


def _manifests(store: Store, target: Descriptor, depth: int = 0) -> Iterator[tuple[Descriptor, Manifest]]:
    if not store.has(target.digest):
        return
    data = store.read(target.digest, max_bytes=MAX_DOCUMENT_BYTES)
    if target.media_type in MANIFEST_TYPES:
        yield target, parse_manifest(target, data)
        return
    if depth >= MAX_DEPTH:
        raise DataLoss(f"read index {target.digest}: indexes are nested more than {MAX_DEPTH} deep")
    for entry in parse_index(target, data).manifests:
        if not is_attestation(entry) and entry.media_type in INDEX_TYPES | MANIFEST_TYPES:
            yield from _manifests(store, entry, depth + 1)


def children(store: Store, descriptor: Descriptor) -> list[Descriptor]:
    """Descriptors that a document names: of an index its entries, of a manifest config and layers; else none."""
    if descriptor.media_type not in INDEX_TYPES | MANIFEST_TYPES:
        return []
    data = store.read(descriptor.digest, max_bytes=MAX_DOCUMENT_BYTES)
    if descriptor.media_type in INDEX_TYPES:
        return list(parse_index(descriptor, data).manifests)
    manifest = decode_manifest(data)
    return [manifest.config, *manifest.layers]


class Closure(NamedTuple):
    """Everything below a descriptor: blobs once each, documents children first."""

    blobs: list[Descriptor]
    documents: list[Descriptor]


def lives_elsewhere(descriptor: Descriptor) -> bool:
    """A layer that is fetched from its own URLs and may not be pushed (Windows base layers)."""
    foreign = descriptor.media_type == DOCKER_FOREIGN or ".nondistributable." in descriptor.media_type
    return foreign and bool(descriptor.urls)


def closure(store: Store, target: Descriptor) -> Closure | None:
    """What has to travel for `target` to arrive whole; None if some of it is not on this machine. Raises DataLoss."""
    found = Closure([], [])
    seen: set[str] = set()

    def collect(descriptor: Descriptor, depth: int) -> bool:
        if descriptor.digest in seen:
            return True
        if not store.has(descriptor.digest):
            return False
        if depth > MAX_DEPTH:
            raise DataLoss(f"read index {target.digest}: indexes are nested more than {MAX_DEPTH} deep")
        seen.add(descriptor.digest)
        for child in children(store, descriptor):
            if child.media_type in INDEX_TYPES | MANIFEST_TYPES:
                if not collect(child, depth + 1):
                    return False
            elif not store.has(child.digest):
                if not lives_elsewhere(child):
                    return False
            elif child.digest not in seen:
                seen.add(child.digest)
                found.blobs.append(child)
        found.documents.append(descriptor)
        return True

    return found if collect(target, 0) else None


def travelling(store: Store, target: Descriptor, wanted: Platform | None, *, operation: str, name: str) -> Closure:
    """What `push` and `save` send: `target` whole where all its platforms are here, else one platform of it.

    Shapes: without `wanted`, the platform that `open_image` would take. Raises NotFound (with how to get the rest).
    """
    whole = closure(store, target) if wanted is None else None
    if whole is not None:
        return whole
    image = open_image(store, target, wanted, name=name)
    part = closure(store, image.descriptor)
    if part is None:
        missing = next(d.digest for d in image.manifest.layers if not store.has(d.digest))
        raise NotFound(
            f"{operation}: layer {missing} is on this machine only unpacked, not as the blob that has to be sent",
            hint=f"remove the image and pull it again: wharfie pull --platform {image.platform} {name}",
        )
    return part


def references(store: Store, target: Descriptor) -> list[Ref]:
    """Everything on this machine that `target` holds: what `ImageRecords.put` and leases take.

    Shapes: documents that are here, layers and config of every manifest that is here (whether or not they are), the
            layers by diff_id and the snapshots by chain id. Each once, in an order of no meaning.
    """
    found: dict[Ref, None] = {}
    seen: set[str] = set()

    def walk(descriptor: Descriptor, depth: int) -> None:
        if descriptor.digest in seen or depth > MAX_DEPTH or not store.has(descriptor.digest):
            return
        seen.add(descriptor.digest)
        found[Ref(KIND_BLOB, descriptor.digest)] = None
        entries = children(store, descriptor)
        for child in entries:
            if child.media_type in INDEX_TYPES | MANIFEST_TYPES:
                walk(child, depth + 1)
            else:
                found[Ref(KIND_BLOB, child.digest)] = None
        if descriptor.media_type in MANIFEST_TYPES and entries[0].media_type in CONFIG_TYPES:
            found.update(dict.fromkeys(_layers_and_snapshots(store, entries[0])))

    walk(target, 0)
    return list(found)


def _layers_and_snapshots(store: Store, config: Descriptor) -> Iterator[Ref]:
    if store.has(config.digest):
        diff_ids = decode_config(store.read(config.digest, max_bytes=MAX_DOCUMENT_BYTES)).rootfs.diff_ids
        yield from image_refs(diff_ids)


def image_refs(diff_ids: list[str]) -> Iterator[Ref]:
    yield from (Ref(KIND_LAYER, d) for d in diff_ids)
    if diff_ids:
        yield from (Ref(KIND_SNAPSHOT, c) for c in chain_ids(diff_ids))


def garbage(store: Store, removed: Iterable[Descriptor], kept: Iterable[Descriptor]) -> list[Ref]:
    """What only the `removed` targets hold and none of the `kept`: what `rmi` and `prune` will free."""
    keep = {ref for target in kept for ref in references(store, target)}
    gone = dict.fromkeys(ref for target in removed for ref in references(store, target))
    return [ref for ref in gone if ref not in keep]
