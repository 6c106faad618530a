# SPDX-License-Identifier: Apache-2.0
"""Image documents of the Engine API: what list, inspect and history answer. Blocking; reads content and layer records."""

from __future__ import annotations

import calendar
import fnmatch
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from wharfie.daemon.services.images import Images
from wharfie.errdefs import InvalidArgument, NotFound
from wharfie.images import DANGLING_PREFIX, ImageRecord
from wharfie.images.walk import Image, is_attestation, parse_index, present_images
from wharfie.spec.image import INDEX_TYPES, LAYER_COMPRESSION, MAX_DOCUMENT_BYTES, ContainerConfig, Descriptor
from wharfie.spec.platform import Platform
from wharfie.spec.reference import Reference, parse_reference

Document = dict[str, Any]

_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)?\Z")


class Options(NamedTuple):
    filters: dict[str, list[str]]
    all: bool = False
    shared_size: bool = False
    manifests: bool = False
    version: tuple[int, int] = (1, 51)


def parse_time(text: str | None) -> float:
    """RFC 3339 -> UTC seconds; 0.0 for nothing or nonsense, as an image's creation date is only for people."""
    found = _TIME.match(text or "")
    if found is None:
        return 0.0
    year, month, day, hour, minute, second = (int(found[i]) for i in range(1, 7))
    try:
        stamp = calendar.timegm((year, month, day, hour, minute, second))
    except (ValueError, OverflowError):
        return 0.0
    zone = found[8] or "Z"
    if zone not in "Zz":
        sign = -1 if zone[0] == "-" else 1
        stamp -= sign * (int(zone[1:3]) * 3600 + int(zone[4:6]) * 60)
    return stamp + float(found[7] or 0)


class Group(NamedTuple):
    """One image: a target, every name it has, and its best platform's documents (None where none are here)."""

    target: Descriptor
    names: list[Reference]
    created_s: float
    updated_s: float
    image: Image | None


def groups(images: Images, ns: str) -> list[Group]:
    """All images, newest first."""
    by_digest: dict[str, list[ImageRecord]] = {}
    for record in images.all(ns):
        by_digest.setdefault(record.target.digest, []).append(record)
    found = [_group(images, records) for records in by_digest.values()]
    return sorted(found, key=lambda g: g.created_s, reverse=True)


def _group(images: Images, records: list[ImageRecord]) -> Group:
    target = records[0].target
    names = [parse_reference(r.name) for r in records if not r.name.startswith(DANGLING_PREFIX)]
    image = images.best(target)
    created = parse_time(image.config.created) if image else records[0].created_s
    return Group(target, names, created, max(r.updated_s for r in records), image)


def repo_tags(names: Iterable[Reference]) -> list[str]:
    return sorted(n.familiar() for n in names if n.tag)


def repo_digests(names: Iterable[Reference], digest: str) -> list[str]:
    return sorted({f"{n.familiar_repository}@{digest}" for n in names})


def layer_sizes(images: Images, image: Image) -> dict[str, int]:
    """diff_id -> bytes unpacked (of its blob where it is not unpacked)."""
    sizes = {}
    for descriptor, diff_id in zip(image.manifest.layers, image.diff_ids, strict=True):
        try:
            sizes[diff_id] = images.engine.snapshotter.layer_info(diff_id).size_bytes
        except NotFound:
            sizes[diff_id] = descriptor.size
    return sizes


def documents(images: Images, ns: str, options: Options) -> list[Document]:
    """GET /images/json. Raises InvalidArgument (filter), NotFound (image of before or since)."""
    everything = groups(images, ns)
    accept = Filter(images, ns, options.filters)
    shared = _shared_layers(everything) if options.shared_size else None
    return [_summary(images, g, options, shared) for g in map(accept, everything) if g is not None]


def _shared_layers(everything: list[Group]) -> set[str]:
    """diff_ids that are in more than one image."""
    once: set[str] = set()
    more: set[str] = set()
    for group in everything:
        for diff_id in set(group.image.diff_ids if group.image else ()):
            (more if diff_id in once else once).add(diff_id)
    return more


def _summary(images: Images, group: Group, options: Options, shared: set[str] | None) -> Document:
    sizes = layer_sizes(images, group.image) if group.image else {}
    config = (group.image.config.config if group.image else None) or ContainerConfig()
    document: Document = {
        "Containers": -1,
        "Created": int(group.created_s),
        "Id": group.target.digest,
        "Labels": config.labels,
        "ParentId": "",
        "RepoDigests": repo_digests(group.names, group.target.digest),
        "RepoTags": repo_tags(group.names),
        "SharedSize": sum(v for k, v in sizes.items() if k in shared) if shared is not None else -1,
        "Size": sum(sizes.values()),
    }
    if options.version < (1, 44):
        document["VirtualSize"] = document["Size"]
    if options.version < (1, 43) and not group.names:
        document["RepoTags"], document["RepoDigests"] = ["<none>:<none>"], ["<none>@<none>"]
    if options.version >= (1, 48):
        document["Descriptor"] = _descriptor(group.target)
    if options.manifests and options.version >= (1, 47):
        document["Manifests"] = list(manifest_summaries(images, group.target))
    return document


def _descriptor(descriptor: Descriptor) -> Document:
    document: Document = msgspec.to_builtins(descriptor)
    return document


def manifest_summaries(images: Images, target: Descriptor) -> Iterator[Document]:
    """What an index lists and which of it is here, in the form of API 1.47."""
    content = images.engine.content
    present = {image.descriptor.digest: image for image in present_images(content, target)}
    entries = [target]
    if target.media_type in INDEX_TYPES and content.has(target.digest):
        entries = parse_index(target, content.read(target.digest, max_bytes=MAX_DOCUMENT_BYTES)).manifests
    for entry in entries:
        image = present.get(entry.digest)
        blobs = [entry, image.manifest.config, *image.manifest.layers] if image else [entry]
        content_size = sum(d.size for d in blobs if content.has(d.digest))
        unpacked = sum(layer_sizes(images, image).values()) if image else 0
        document: Document = {
            "ID": entry.digest,
            "Descriptor": _descriptor(entry),
            "Available": image is not None and all(content.has(d.digest) for d in blobs),
            "Size": {"Content": content_size, "Total": content_size + unpacked},
            "Kind": "attestation" if is_attestation(entry) else "image",
        }
        if is_attestation(entry):
            about = (entry.annotations or {}).get("vnd.docker.reference.digest", "")
            document["AttestationData"] = {"For": about}
        else:
            platform = image.platform if image else entry.platform.value() if entry.platform else Platform("", "")
            document["ImageData"] = {
                "Platform": _platform(platform),
                "Containers": [],
                "Size": {"Unpacked": unpacked},
            }
        yield document


def _platform(platform: Platform) -> Document:
    document: Document = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        document["variant"] = platform.variant
    if platform.os_version:
        document["os.version"] = platform.os_version
    return document


def has_labels(group: Group, wanted: list[str]) -> bool:
    """Whether the image has all of `key` and `key=value`."""
    labels = ((group.image.config.config if group.image else None) or ContainerConfig()).labels or {}
    for want in wanted:
        key, equals, value = want.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


class Filter:
    """Group -> the group with the names that match, or None."""

    def __init__(self, images: Images, ns: str, filters: dict[str, list[str]]) -> None:
        self._filters = filters
        self._before = [_created(images, ns, text) for text in filters.get("before", [])]
        self._since = [_created(images, ns, text) for text in filters.get("since", [])]
        self._until = [until_time(text) for text in filters.get("until", [])]
        self._dangling = filters.get("dangling")
        if self._dangling and self._dangling[-1].lower() not in {"true", "false", "1", "0"}:
            raise InvalidArgument(f"invalid filter 'dangling': {self._dangling[-1]!r} is neither true nor false")

    def __call__(self, group: Group) -> Group | None:
        if any(group.created_s >= t for t in self._before) or any(group.created_s <= t for t in self._since):
            return None
        if any(group.created_s >= t for t in self._until):
            return None
        if self._dangling and (self._dangling[-1].lower() in {"true", "1"}) == bool(group.names):
            return None
        if not has_labels(group, self._filters.get("label", [])):
            return None
        patterns = self._filters.get("reference")
        if patterns:
            names = [n for n in group.names if any(_matches(n, p) for p in patterns)]
            return group._replace(names=names) if names else None
        return group


def _matches(name: Reference, pattern: str) -> bool:
    """Docker's FamiliarMatch, where `*` stops at a slash."""
    shown = (name.familiar(), name.familiar_repository, str(name), name.repository)
    return any(_glob(s, pattern) for s in shown)


def _glob(text: str, pattern: str) -> bool:
    a, b = text.split("/"), pattern.split("/")
    return len(a) == len(b) and all(fnmatch.fnmatchcase(x, y) for x, y in zip(a, b, strict=True))


def _created(images: Images, ns: str, text: str) -> float:
    return _group(images, [images.find(ns, text).record]).created_s


def until_time(text: str) -> float:
    """A moment as filters take it: Unix seconds, RFC 3339, a date, or a duration before now. Raises InvalidArgument."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        text += "T00:00:00Z"
    elif re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d(:\d\d)?", text):
        text += ":00Z" if text.count(":") else ":00:00Z"
    stamp = parse_time(text)
    if stamp:
        return stamp
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if parts and text:
        hours, minutes, seconds = (int(p or 0) for p in parts.groups())
        return time.time() - (hours * 3600 + minutes * 60 + seconds)
    raise InvalidArgument(
        f"invalid filter 'until': {text!r} is no time", hint="for example 2026-01-31T10:00:00Z or 24h"
    )


def _container_config(config: ContainerConfig) -> Document:
    """The image's Config object: Docker's keys, with null where nothing is said."""
    document: Document = {
        "User": config.user,
        "Env": config.env,
        "Cmd": config.cmd,
        "Volumes": config.volumes,
        "WorkingDir": config.working_dir,
        "Entrypoint": config.entrypoint,
        "OnBuild": config.on_build,
        "Labels": config.labels,
    }
    if config.exposed_ports:
        document["ExposedPorts"] = config.exposed_ports
    if config.stop_signal:
        document["StopSignal"] = config.stop_signal
    if config.healthcheck:
        document["Healthcheck"] = msgspec.to_builtins(config.healthcheck)
    if config.shell:
        document["Shell"] = config.shell
    if config.args_escaped:
        document["ArgsEscaped"] = True
    return document


def inspect(
    images: Images, ns: str, text: str, platform: Platform | None, version: tuple[int, int], *, manifests: bool = False
) -> Document:
    """GET /images/{name}/json. Raises NotFound, DataLoss."""
    found, image = images.image(ns, text, platform)
    target = found.record.target
    names = images.names(ns, target.digest)
    config = image.config
    size = sum(layer_sizes(images, image).values())
    history = config.history or []
    tagged = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(found.record.updated_s))
    document: Document = {
        "Id": target.digest,
        "RepoTags": repo_tags(names),
        "RepoDigests": repo_digests(names, target.digest),
        "Parent": "",
        "Comment": history[-1].comment if history else "",
        "Created": config.created or "0001-01-01T00:00:00Z",
        "DockerVersion": "",
        "Author": config.author,
        "Config": _container_config(config.config or ContainerConfig()),
        "Architecture": config.architecture,
        "Os": config.os or "linux",
        "Size": size,
        "GraphDriver": {"Data": None, "Name": images.engine.snapshotter.name},
        "RootFS": {"Type": "layers", "Layers": image.diff_ids},
        "Metadata": {"LastTagTime": f"{tagged}.{int(found.record.updated_s % 1 * 10**9):09d}Z"},
    }
    if config.variant:
        document["Variant"] = config.variant
    if config.os_version:
        document["OsVersion"] = config.os_version
    if version < (1, 44):
        document["VirtualSize"] = size
    if version < (1, 45):
        document["Container"] = ""
        document["ContainerConfig"] = None
    if version >= (1, 48):
        document["Descriptor"] = _descriptor(target)
    if manifests:
        document["Manifests"] = list(manifest_summaries(images, target))
    return document


def history(images: Images, ns: str, text: str, platform: Platform | None) -> list[Document]:
    """GET /images/{name}/history, newest first. Raises NotFound."""
    found, image = images.image(ns, text, platform)
    sizes = layer_sizes(images, image)
    layers = iter(zip(image.diff_ids, image.manifest.layers, strict=True))
    rows: list[Document] = []
    entries = image.config.history or []
    for entry in entries:
        size = 0
        if not entry.empty_layer:
            layer = next(layers, None)
            size = sizes[layer[0]] if layer else 0
        rows.append(
            {
                "Id": "<missing>",
                "Created": int(parse_time(entry.created)),
                "CreatedBy": entry.created_by,
                "Tags": None,
                "Size": size,
                "Comment": entry.comment,
            }
        )
    for diff_id, descriptor in layers:  # layers that no history entry speaks of
        kind = LAYER_COMPRESSION.get(descriptor.media_type, "")
        rows.append(
            {"Id": "<missing>", "Created": 0, "CreatedBy": "", "Tags": None, "Size": sizes[diff_id], "Comment": kind}
        )
    rows.reverse()
    if rows:
        rows[0]["Id"] = found.record.target.digest
        rows[0]["Tags"] = repo_tags(images.names(ns, found.record.target.digest)) or None
    return rows
