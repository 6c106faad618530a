# SPDX-License-Identifier: Apache-2.0
"""`system df`: what images, containers and volumes take on disk, and how much of it nobody needs."""

from __future__ import annotations

from typing import Any

from wharfie.daemon.services import images_list
from wharfie.daemon.services.container import Container
from wharfie.daemon.services.images import Images
from wharfie.daemon.services.system_usage import disk_usage
from wharfie.daemon.services.volumes import Volumes
from wharfie.daemon.state import Engine
from wharfie.errdefs import InvalidArgument, NotFound

Document = dict[str, Any]

KINDS = frozenset({"container", "image", "volume", "build-cache"})


async def document(engine: Engine, ns: str, kinds: frozenset[str], version: tuple[int, int]) -> Document:
    """GET /system/df; `kinds` empty means all. Raises InvalidArgument (unknown kind)."""
    unknown = kinds - KINDS
    if unknown:
        raise InvalidArgument(
            f"system df: unknown object type {min(unknown)!r}", hint=f"one of {', '.join(sorted(KINDS))}"
        )
    wanted = kinds or KINDS
    answer: Document = {}
    if "image" in wanted:
        answer["LayersSize"], answer["Images"] = await engine.background(_images, engine, ns, version)
    if "container" in wanted:
        containers = engine.containers.all(ns)
        answer["Containers"] = await engine.background(lambda: [_container(engine, c) for c in containers])
    if "volume" in wanted:
        answer["Volumes"] = await engine.background(_volumes, engine.volumes)
    if "build-cache" in wanted:
        answer["BuildCache"] = []
    return answer


def _images(engine: Engine, ns: str, version: tuple[int, int]) -> tuple[int, list[Document]]:
    images: Images = engine.images
    options = images_list.Options({}, shared_size=True, version=version)
    documents = images_list.documents(images, ns, options)
    for one in documents:
        one["Containers"] = len(engine.containers.using_image(ns, [one["Id"]]))
    sizes: dict[str, int] = {}
    for group in images_list.groups(images, ns):
        if group.image:
            sizes.update(images_list.layer_sizes(images, group.image))
    return sum(sizes.values()), documents


def _container(engine: Engine, container: Container) -> Document:
    try:
        size = engine.containers.snapshotter_of(container).usage(container.snapshot_key).size_bytes
    except NotFound:
        size = 0  # removed while we look
    summary = container.summary
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": summary.image,
        "ImageID": summary.image_id,
        "Command": summary.command,
        "Created": container.created_ns // 10**9,
        "Ports": [],
        "Labels": summary.labels,
        "State": container.state.status,
        "Status": container.state.status,
        "HostConfig": {"NetworkMode": summary.network},
        "NetworkSettings": {"Networks": {}},
        "Mounts": [
            {"Type": kind, "Name": name, "Source": source, "Destination": target, "RW": rw}
            for kind, name, source, target, rw in summary.mounts
        ],
        "SizeRw": size,
        "SizeRootFs": size,
    }


def _volumes(volumes: Volumes) -> list[Document]:
    return [
        {
            **v.document(),
            "UsageData": {"RefCount": len(volumes.users(v.name)), "Size": disk_usage(v.mountpoint)},
        }
        for v in volumes.all()
    ]
