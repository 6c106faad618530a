# SPDX-License-Identifier: Apache-2.0
"""commit (container -> image), import (tar -> image) and changes (docker diff)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import msgspec

from wharfie.daemon.services import containers_records as states
from wharfie.daemon.services.archive_pipes import ByteSource, Readable, into_thread, pipe
from wharfie.daemon.services.commit_changes import apply_changes
from wharfie.daemon.services.container import Container
from wharfie.daemon.services.images import Images
from wharfie.daemon.services.specgen import merge_config
from wharfie.daemon.state import Engine
from wharfie.errdefs import InvalidArgument, NotFound, ResourceExhausted
from wharfie.images import DANGLING_PREFIX, Ref
from wharfie.images.making import NewLayer, add_layer, commit_image
from wharfie.images.walk import Image, image_refs, open_image, references
from wharfie.spec.docker import Config, ContainerCreateBody
from wharfie.spec.image import INDEX_TYPES, MAX_DOCUMENT_BYTES, OCI_MANIFEST, ContainerConfig, Descriptor
from wharfie.spec.platform import Platform, host_platform
from wharfie.spec.reference import Reference

EMPTY_TAR_BYTES = 1024


class NewImage(NamedTuple):
    """How an image that is being made is called and described. Without `reference` it has no name."""

    reference: Reference | None
    message: str = ""
    author: str = ""
    changes: Sequence[str] = ()


def now() -> str:
    stamp = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stamp // 10**9)) + f".{stamp % 10**9:09d}Z"


def _request(engine: Engine, container: Container) -> bytes:
    return msgspec.json.encode(
        {
            "snapshotter": container.snapshotter,
            "root": engine.config.root,
            "state": engine.config.state,
            "key": container.snapshot_key,
        }
    )


async def changes(engine: Engine, container: Container) -> bytes:
    """JSON of GET /containers/{id}/changes: null where nothing changed."""
    answer = await engine.tasks.worker("changes", _request(engine, container))
    return answer if answer != b"[]" else b"null"


def image_config(config: Config) -> ContainerConfig:
    """What an image keeps of a container's configuration."""
    return ContainerConfig(
        user=config.user,
        exposed_ports=config.exposed_ports,
        env=config.env,
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        volumes=config.volumes,
        working_dir=config.working_dir,
        labels=config.labels,
        stop_signal=config.stop_signal,
        healthcheck=config.healthcheck,
        on_build=config.on_build,
        shell=config.shell,
        args_escaped=config.args_escaped,
    )


@contextlib.asynccontextmanager
async def _still(engine: Engine, container: Container, *, pause: bool) -> AsyncIterator[None]:
    """Paused, if it runs and `pause` says so."""
    paused = pause and container.state.status == states.RUNNING
    if paused:
        await engine.containers.run.pause(container)
    try:
        yield
    finally:
        if paused and container.state.status == states.PAUSED:
            await engine.containers.run.unpause(container)


async def commit(
    engine: Engine,
    container: Container,
    new: NewImage,
    *,
    pause: bool = True,
    override: ContainerCreateBody | None = None,
) -> str:
    """A new image of what the container is now; its id. Raises InvalidArgument (a change), ResourceExhausted, Aborted."""
    document = container.document()
    config = image_config(document.config)
    if override is not None:
        config = image_config(merge_config(config, override))
    config = apply_changes(config, new.changes)
    images: Images = engine.images
    with contextlib.ExitStack() as stack:
        stack.callback(images.collect_soon)
        lease = stack.enter_context(images.leases(container.ns).hold(f"commit {container.short}"))
        async with _still(engine, container, pause=pause):
            layer = await _layer(engine, container, lease.add)

        def finish() -> Image:
            image = commit_image(
                engine.content,
                _base(images, document.manifest),
                layer,
                config,
                lease.add,
                created=now(),
                author=new.author,
                comment=new.message,
                created_by=container.summary.command,
            )
            return _record(images, container.ns, image, new.reference, lease.add)

        image = await engine.transfer(finish)
    engine.containers.publish(container, "/wharfie/container/commit", comment=new.message, imageID=image.target.digest)
    return image.target.digest


async def _layer(engine: Engine, container: Container, keep: Any) -> NewLayer | None:
    """The container's changes as a stored blob, None where there are none."""
    reader_fd, writer_fd = pipe()

    def store() -> NewLayer:
        with os.fdopen(reader_fd, "rb", buffering=0) as stream:
            return add_layer(engine.content, stream, keep)

    stored = asyncio.ensure_future(engine.transfer(store))
    try:
        try:
            await engine.tasks.worker("changes-layer", _request(engine, container), [writer_fd])
        finally:
            os.close(writer_fd)
    except BaseException:
        await asyncio.wait({stored})
        if not stored.cancelled() and isinstance(stored.exception(), ResourceExhausted):
            await stored  # why the worker could not write on
        raise
    layer = await stored
    return None if layer.size_bytes <= EMPTY_TAR_BYTES else layer


def _base(images: Images, manifest: str) -> Image:
    """The image that a container was made of, by its manifest's digest. Raises NotFound."""
    content = images.engine.content
    if not content.has(manifest):
        raise NotFound(f"commit container: the manifest {manifest} of its image is not here any more")
    data = content.read(manifest, max_bytes=MAX_DOCUMENT_BYTES)
    media_type = str(msgspec.json.decode(data).get("mediaType") or OCI_MANIFEST)
    if media_type in INDEX_TYPES:
        raise NotFound(f"commit container: {manifest} is an index, not a manifest")
    return open_image(content, Descriptor(media_type, manifest, len(data)))


def _record(images: Images, ns: str, image: Image, reference: Reference | None, keep: Any) -> Image:
    """Layers unpacked, record written."""
    keep([*image_refs(image.diff_ids), *(Ref("blob", d.digest) for d in image.manifest.layers)])
    images.unpack(ns, image, image.target.digest)
    name = str(reference) if reference else DANGLING_PREFIX + image.target.digest
    images.records(ns).put(name, image.target, refs=references(images.engine.content, image.target))
    if reference:
        images.publish(ns, "tag", image.target.digest, [reference.familiar()])
    return image


async def import_image(engine: Engine, ns: str, body: ByteSource, new: NewImage, platform: Platform | None) -> str:
    """An image of one layer out of a root file system's tar; its id. Raises DataLoss, InvalidArgument (a change)."""
    images: Images = engine.images
    config = apply_changes(ContainerConfig(), new.changes)

    def work(stream: Readable) -> Image:
        with contextlib.ExitStack() as stack:
            stack.callback(images.collect_soon)
            lease = stack.enter_context(images.leases(ns).hold("import"))
            layer = add_layer(engine.content, stream, lease.add)
            if not layer.size_bytes:
                raise InvalidArgument("import image: the archive is empty", hint="send the tar of a root file system")
            image = commit_image(
                engine.content,
                None,
                layer,
                config,
                lease.add,
                created=now(),
                comment=new.message or "Imported from -",
                platform=platform or host_platform(),
            )
            return _record(images, ns, image, new.reference, lease.add)

    image = await into_thread(engine, body, work)
    images.publish(ns, "import", image.target.digest, [new.reference.familiar()] if new.reference else [])
    return image.target.digest
