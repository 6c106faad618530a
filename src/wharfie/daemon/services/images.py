# SPDX-License-Identifier: Apache-2.0
"""Images of the engine: finding them by every name people use, and making them ready to run.

Docker's image id is the digest that a name points to (decisions 6); look-up by the digest of any manifest or config in
it works too. What is learnt from immutable documents is kept in memory by target digest, so that a `run` of a known
image reads no file. Pull, push, load and the rest live in `images_*`; blocking work runs in the transfer pool.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from wharfie.daemon.state import DEFAULT_NAMESPACE, ContainerImage, Engine
from wharfie.errdefs import FailedPrecondition, InvalidArgument, NotFound
from wharfie.images import DANGLING_PREFIX, KIND_BLOB, ImageRecord, Ref
from wharfie.images.walk import Image, image_refs, open_image, present_images
from wharfie.metadata.images import Images as Records
from wharfie.metadata.leases import Leases
from wharfie.registry import RegistryOptions
from wharfie.registry.client import Registry
from wharfie.snapshots import LayerInfo
from wharfie.spec.digest import chain_id, is_digest
from wharfie.spec.image import Descriptor
from wharfie.spec.platform import Platform, host_platform
from wharfie.spec.reference import Reference, parse_reference
from wharfie.transfer.pull import Puller
from wharfie.transfer.push import Pusher
from wharfie.transfer.unpack import unpack_image

_HEX = frozenset("0123456789abcdef")
_MOST_KEPT = 512
"""Images whose documents are kept in memory for lists: some 5 kB each."""


class Found(NamedTuple):
    """What a text names: all records of the target, and the one that was named, if it was by a name."""

    record: ImageRecord
    named: bool


class _Known(NamedTuple):
    """Digests inside a target: of its manifests and configs that are here."""

    digests: frozenset[str]


class Images:
    """Of all namespaces. The stores are the engine's."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._records: dict[str, Records] = {}
        self._known: dict[str, _Known] = {}
        self._best: dict[str, Image] = {}
        self._ready: dict[tuple[str, Platform | None], ContainerImage] = {}
        self._unpacking: dict[str, asyncio.Lock] = {}

    async def open(self) -> None:
        config = self.engine.config
        self.registry = Registry(
            RegistryOptions(
                config_dirs=tuple(config.registry_config_dirs),
                insecure=tuple(config.insecure_registries),
                environ=dict(os.environ),
            )
        )
        self.puller = Puller(
            self.registry,
            self.engine.content,
            self.engine.snapshotter,
            self.unpack_in_worker,
            max_layer_bytes=config.max_layer_size,
            parallel_layers=config.max_concurrent_downloads,
        )
        self.pusher = Pusher(self.registry, self.engine.content)

    async def close(self) -> None:
        self.registry.close()

    # --- for the blocking code below

    def records(self, ns: str) -> Records:
        found = self._records.get(ns)
        if found is None:
            found = self._records[ns] = Records(self.engine.db, ns, dangling_prefix=DANGLING_PREFIX)
        return found

    def leases(self, ns: str) -> Leases:
        return Leases(self.engine.db, ns)

    def unpack_in_worker(self, read_fd: int, compression: str, diff_id: str, max_size_bytes: int | None) -> LayerInfo:
        """`transfer.Unpacker`: from a thread of a transfer into a worker process, through the loop."""
        try:
            answer = asyncio.run_coroutine_threadsafe(
                self.engine.tasks.unpack(
                    self.engine.snapshotter.name,
                    read_fd,
                    compression=compression,
                    diff_id=diff_id,
                    max_size_bytes=max_size_bytes,
                ),
                self.engine.loop,
            ).result()
        finally:
            os.close(read_fd)
        fields = msgspec.json.decode(answer)
        fields["extra_ids"] = tuple(fields["extra_ids"])
        return LayerInfo(**fields)

    # --- names

    def all(self, ns: str) -> list[ImageRecord]:
        return self.records(ns).list()

    def find(self, ns: str, text: str) -> Found:
        """By name, digest or id prefix, in this order. Blocking, short.

        Raises: NotFound `No such image: TEXT`, InvalidArgument (malformed, or a prefix of several).
        """
        records = self.records(ns)
        if is_digest(text):
            return Found(self._by_digest(ns, text, text), named=False)
        if text.startswith("sha256:") and 4 <= len(text) - 7 < 64 and _HEX.issuperset(text[7:]):
            return Found(self._by_prefix(ns, text[7:]), named=False)
        if not (len(text) == 64 and _HEX.issuperset(text)):
            reference = parse_reference(text)
            found = self._by_reference(records, reference)
            if found is not None:
                return Found(found, named=True)
        if 4 <= len(text) <= 64 and _HEX.issuperset(text):
            return Found(self._by_prefix(ns, text), named=False)
        raise _no_such(text)

    def _by_reference(self, records: Records, reference: Reference) -> ImageRecord | None:
        if reference.digest is None:
            try:
                return records.get(str(reference))
            except NotFound:
                return None
        for record in records.by_digest(reference.digest):
            if record.name.startswith(DANGLING_PREFIX):
                continue
            if parse_reference(record.name).repository == reference.repository:
                return record
        return None

    def _by_digest(self, ns: str, digest: str, text: str) -> ImageRecord:
        direct = self.records(ns).by_digest(digest)
        if direct:
            return direct[0]
        for record in self.all(ns):
            if digest in self._inside(record).digests:
                return record
        raise _no_such(text)

    def _by_prefix(self, ns: str, prefix: str) -> ImageRecord:
        wanted = f"sha256:{prefix}"
        matches: dict[str, ImageRecord] = {}
        records = self.all(ns)
        for record in records:
            if record.target.digest.startswith(wanted):
                matches.setdefault(record.target.digest, record)
        if not matches:
            for record in records:
                if any(d.startswith(wanted) for d in self._inside(record).digests):
                    matches.setdefault(record.target.digest, record)
        if len(matches) > 1:
            raise InvalidArgument(f"multiple images found with provided prefix: {prefix}", hint="give more digits")
        if not matches:
            raise _no_such(prefix)
        return next(iter(matches.values()))

    def _inside(self, record: ImageRecord) -> _Known:
        known = self._known.get(record.target.digest)
        if known is None:
            digests: set[str] = set()
            for image in present_images(self.engine.content, record.target):
                digests |= {image.descriptor.digest, image.manifest.config.digest}
            known = self._known[record.target.digest] = _Known(frozenset(digests))
        return known

    def names(self, ns: str, digest: str) -> list[Reference]:
        """All names of a target, dangling ones left out."""
        return [
            parse_reference(r.name)
            for r in self.records(ns).by_digest(digest)
            if not r.name.startswith(DANGLING_PREFIX)
        ]

    def forget(self, digest: str) -> None:
        """Documents of this target have come or gone."""
        self._known.pop(digest, None)
        self._best.pop(digest, None)
        for key in [k for k in list(self._ready) if k[0] == digest]:
            del self._ready[key]

    def best(self, target: Descriptor) -> Image | None:
        """Documents of the target's platform for this host, else of any that is here. Blocking."""
        found = self._best.get(target.digest)
        if found is None:
            try:
                found = open_image(self.engine.content, target)
            except NotFound:
                return None
            if len(self._best) >= _MOST_KEPT:
                self._best.clear()
            self._best[target.digest] = found
        return found

    def image(self, ns: str, text: str, platform: Platform | None = None) -> tuple[Found, Image]:
        """A record with the documents of one platform. Blocking. Raises NotFound, DataLoss."""
        found = self.find(ns, text)
        return found, open_image(self.engine.content, found.record.target, platform, name=text)

    # --- for containers

    async def for_container(self, namespace: str, text: str, platform: Platform | None) -> ContainerImage:
        """`state.ImagesService.for_container`."""
        found = self.find(namespace, text)
        target = found.record.target
        key = (target.digest, platform)
        ready = self._ready.get(key)
        if ready is None:
            ready = await self.engine.transfer(self._prepare, namespace, found.record, text, platform)
            self._ready[key] = ready
        elif ready.chain_id is not None and not self._committed(ready.chain_id):
            self.forget(target.digest)
            return await self.for_container(namespace, text, platform)
        return ready._replace(text=text, name=found.record.name, target=target)

    def _committed(self, name: str) -> bool:
        try:
            self.engine.snapshotter.stat(name)
        except NotFound:
            return False
        return True

    def _prepare(self, ns: str, record: ImageRecord, text: str, platform: Platform | None) -> ContainerImage:
        """Documents read, layers unpacked where they are not (an image of another snapshotter). Blocking."""
        image = open_image(self.engine.content, record.target, platform, name=text)
        if platform is None and image.platform.os != host_platform().os:
            raise FailedPrecondition(
                f"use image {text!r}: it is for {image.platform}, this host runs {host_platform()}",
                hint="choose an image or --platform that this host can run",
            )
        chain = chain_id(image.diff_ids) if image.diff_ids else None
        if chain is not None and not self._committed(chain):
            self.unpack(ns, image, text)
        snapshotter = self.engine.snapshotter
        extra: set[int] = set()
        for diff_id in image.diff_ids:
            extra.update(snapshotter.layer_info(diff_id).extra_ids)
        blobs = (record.target, image.descriptor, image.manifest.config, *image.manifest.layers)
        refs = dict.fromkeys((*(Ref(KIND_BLOB, d.digest) for d in blobs), *image_refs(image.diff_ids)))
        return ContainerImage(
            text,
            record.name,
            record.target,
            image.descriptor,
            image.config,
            chain,
            snapshotter.name,
            tuple(sorted(extra)),
            tuple(refs),
        )

    _unpack_lock = threading.Lock()

    def unpack(self, ns: str, image: Image, text: str) -> None:
        """Layers and snapshots of an image whose blobs are here. Blocking."""
        with self._unpack_lock, self.leases(ns).hold(f"unpack {text}"):
            unpack_image(
                self.engine.content,
                self.engine.snapshotter,
                self.unpack_in_worker,
                image,
                max_layer_bytes=self.engine.config.max_layer_size,
            )

    def collect_soon(self) -> None:
        """Something was stored that perhaps nobody keeps. From any thread."""
        self.engine.loop.call_soon_threadsafe(self.engine.collector.request)

    # --- events

    def publish(self, ns: str, action: str, subject: str, names: Sequence[str] = (), **payload: str) -> None:
        """An event of Docker's type "image": `subject` is what it calls the actor's ID."""
        self.engine.events.publish(
            ns or DEFAULT_NAMESPACE,
            f"/wharfie/image/{action}",
            {"name": subject, **payload},
            subject=subject,
            attributes={"name": names[0] if names else subject},
        )


def _no_such(text: str) -> NotFound:
    return NotFound(f"No such image: {text}", hint=f"`pull {text}` gets it, `images` lists those there are")
