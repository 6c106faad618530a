# SPDX-License-Identifier: Apache-2.0
"""Pull: name -> index -> platform -> manifest -> config -> layers -> snapshots -> image record, under one lease.

Each step leaves something whole that the next pull finds: documents and blobs by digest, layers by diff_id, partial
downloads by ref. The record is written last, so a name never points to half an image.
"""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import NamedTuple

from wharfie.content import Store
from wharfie.errdefs import Cancelled, DataLoss, NotFound, Unsupported
from wharfie.images import KIND_BLOB, ImageRecord, ImageRecords, Ref
from wharfie.images.walk import (
    MAX_DEPTH,
    Image,
    by_preference,
    image_refs,
    offered_platforms,
    parse_config,
    parse_index,
    parse_manifest,
    references,
    wrong_platform,
)
from wharfie.registry import Credentials
from wharfie.registry.client import Registry
from wharfie.snapshots import Snapshotter
from wharfie.spec.image import INDEX_TYPES, MANIFEST_TYPES, MAX_DOCUMENT_BYTES, Descriptor
from wharfie.spec.platform import Platform, host_platform, match_rank
from wharfie.spec.reference import Reference
from wharfie.transfer import Lease, Leases, Phase, Progress, ProgressCallback, Unpacker
from wharfie.transfer.layers import Layer, Layers
from wharfie.transfer.throttle import Throttle
from wharfie.transfer.unpack import assemble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.registry.repository import Repository

PARALLEL_LAYERS = 3
MAX_TRIED = 32


class PullResult(NamedTuple):
    """`image.descriptor` is the platform's manifest. `up_to_date`: the name pointed there and nothing was missing."""

    record: ImageRecord
    image: Image
    up_to_date: bool


class Puller:
    """Pulls into one content store and snapshotter, for any namespace. Thread-safe; one per daemon."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        snapshotter: Snapshotter,
        unpacker: Unpacker,
        *,
        max_layer_bytes: int | None = None,
        parallel_layers: int = PARALLEL_LAYERS,
    ) -> None:
        self._registry = registry
        self._store = store
        self._snapshotter = snapshotter
        self._layers = Layers(store, snapshotter, unpacker, max_layer_bytes)
        self._parallel_layers = parallel_layers

    def pull(
        self,
        reference: Reference,
        records: ImageRecords,
        leases: Leases,
        *,
        platform: Platform | None = None,
        credentials: Credentials | None = None,
        progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> PullResult:
        """Bring one image here and give it its name.

        Shapes: without `platform`, this host's. A name with a digest is recorded without its tag, as Docker does.
        Raises: NotFound (name; platform, with what there is), Unauthenticated, PermissionDenied, Unavailable, DataLoss,
                ResourceExhausted (disk, bomb), Unsupported (artifact, schema 1), Cancelled.
        """
        cancel = cancel or threading.Event()
        tell = Throttle(progress or (lambda _: None))
        repository = self._registry.repository(reference, credentials, cancel=cancel)
        name = str(reference._replace(tag=None) if reference.digest else reference)
        tell(Progress(name, Phase.RESOLVING))
        target = repository.resolve()
        with leases.hold(f"pull {reference.familiar()}") as lease:
            image, documents = self._documents(repository, target, platform, lease)
            with ThreadPoolExecutor(1, "pull-documents") as side:  # flushing them takes as long as a small layer
                stored = side.submit(self._store_documents, documents)
                fetched = self._get_layers(repository, image, tell, cancel)
                stored.result()
            assemble(self._snapshotter, image.diff_ids)
            known = _record(records, name)
            up_to_date = known is not None and known.target.digest == target.digest and not fetched
            record = records.put(name, target, refs=references(self._store, target))
        tell(Progress(name, Phase.DONE, detail="up to date" if up_to_date else "downloaded"))
        return PullResult(record, image, up_to_date)

    def _documents(
        self, repository: Repository, target: Descriptor, platform: Platform | None, lease: Lease
    ) -> tuple[Image, list[tuple[Descriptor, bytes]]]:
        """Fetch index, manifest and config, and name in the lease all that the image will need."""
        wanted = platform or host_platform()
        operation = repository.context.operation
        documents: list[tuple[Descriptor, bytes]] = []
        offered: list[str] = []
        asked = 0

        def descend(descriptor: Descriptor, depth: int) -> Image | None:
            nonlocal asked
            asked += 1
            if asked > MAX_TRIED:
                raise DataLoss(
                    f"{operation}: its index sends us through more than {MAX_TRIED} manifests without platform"
                )
            data = self._document(repository, descriptor)
            documents.append((descriptor, data))
            if descriptor.media_type in INDEX_TYPES:
                if depth >= MAX_DEPTH:
                    raise DataLoss(f"{operation}: indexes are nested more than {MAX_DEPTH} deep")
                index = parse_index(descriptor, data)
                offered.extend(offered_platforms(index))
                for entry in by_preference(index, wanted):
                    found = descend(entry, depth + 1)
                    if found is not None:
                        return found
                    documents.pop()
                return None
            if descriptor.media_type not in MANIFEST_TYPES:
                raise Unsupported(f"{operation}: media type {descriptor.media_type!r} is not known")
            manifest = parse_manifest(descriptor, data)
            if self._store.has(manifest.config.digest):
                raw = self._store.read(manifest.config.digest, max_bytes=MAX_DOCUMENT_BYTES)
            else:
                raw = repository.document(manifest.config)
            config = parse_config(manifest, raw)
            # An explicit platform must be met; without one, a single manifest is taken as it is, as others do.
            if (platform is not None or depth) and match_rank(wanted, config.platform()) is None:
                offered.append(str(config.platform()))
                return None
            documents.append((manifest.config, raw))
            return Image(target, descriptor, manifest, config, raw)

        image = descend(target, 0)
        if image is None:
            raise wrong_platform(operation, wanted, list(dict.fromkeys(offered)))
        layers = image.manifest.layers
        lease.add(
            [
                *(Ref(KIND_BLOB, d.digest) for d, _ in documents),
                *(Ref(KIND_BLOB, d.digest) for d in layers),
                *image_refs(image.diff_ids),
            ]
        )
        return image, documents

    def _store_documents(self, documents: list[tuple[Descriptor, bytes]]) -> None:
        for descriptor, data in reversed(documents):
            self._store.put(data, descriptor.digest)

    def _document(self, repository: Repository, descriptor: Descriptor) -> bytes:
        if self._store.has(descriptor.digest):
            return self._store.read(descriptor.digest, max_bytes=MAX_DOCUMENT_BYTES)
        return repository.manifest(descriptor)

    def _get_layers(
        self, repository: Repository, image: Image, tell: ProgressCallback, cancel: threading.Event
    ) -> bool:
        """All layers, a few at a time, bottom first; the first failure ends the others. True if any was fetched."""
        by_digest = {d.digest: d for d in image.manifest.layers}
        layers = dict.fromkeys(zip((d.digest for d in image.manifest.layers), image.diff_ids, strict=True))
        missing = []
        for layer in (Layer(by_digest[digest], diff_id) for digest, diff_id in layers):
            there = self._layers.present(layer)
            tell(
                Progress(layer.descriptor.digest, Phase.EXISTS if there else Phase.WAITING, total=layer.descriptor.size)
            )
            if not there:
                missing.append(layer)
        if not missing:
            return False
        stop = threading.Event()

        def stopped() -> bool:
            return stop.is_set() or cancel.is_set()

        with ThreadPoolExecutor(self._parallel_layers, "pull") as pool:
            futures = [pool.submit(self._layers.get, repository, layer, tell, stopped) for layer in missing]
            _, pending = wait(futures, return_when=FIRST_EXCEPTION)
            if pending:
                stop.set()
                for future in pending:
                    future.cancel()
        errors = [e for f in futures if not f.cancelled() and (e := f.exception()) is not None]
        if cancel.is_set():
            raise Cancelled(f"{repository.context.operation}: cancelled")
        if errors:
            raise next((e for e in errors if not isinstance(e, Cancelled)), errors[0])
        return True


def _record(records: ImageRecords, name: str) -> ImageRecord | None:
    try:
        return records.get(name)
    except NotFound:
        return None
