# SPDX-License-Identifier: Apache-2.0
"""Push: an image record -> blobs -> manifests -> tag, each blob once and only if the registry lacks it.

Labels of blobs are not kept anywhere; where a blob may be mounted from is worked out from the image records: any name
in the same registry whose image has the same blob.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import NamedTuple

from wharfie.content import Store
from wharfie.errdefs import Cancelled, InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from wharfie.images import KIND_BLOB, ImageRecords
from wharfie.images.walk import lives_elsewhere, references, travelling
from wharfie.registry import Credentials
from wharfie.registry.client import Registry
from wharfie.spec.image import MAX_DOCUMENT_BYTES, Descriptor
from wharfie.spec.platform import Platform
from wharfie.spec.reference import Reference, parse_reference
from wharfie.transfer import Phase, Progress, ProgressCallback
from wharfie.transfer.throttle import Throttle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.registry.push import Upload

PARALLEL_BLOBS = 5


class PushResult(NamedTuple):
    """What the tag points to now. `manifest_bytes` is the size of that document."""

    tag: str
    digest: str
    manifest_bytes: int


class Pusher:
    """Pushes from one content store. Thread-safe; one per daemon."""

    def __init__(self, registry: Registry, store: Store) -> None:
        self._registry = registry
        self._store = store

    def push(
        self,
        reference: Reference,
        records: ImageRecords,
        *,
        platform: Platform | None = None,
        credentials: Credentials | None = None,
        progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> PushResult:
        """Push the image recorded as `reference` to where its name says.

        Shapes: an index goes whole if all of its platforms are here; if some are not, the one platform of this host is
                pushed as a plain manifest, as Docker does. `platform` picks one.
        Raises: NotFound (no such image here; blobs not here), Unauthenticated, PermissionDenied, Unavailable, Cancelled.
        """
        if reference.digest:
            raise InvalidArgument(f'push "{reference.familiar()}": an image is pushed under a tag, not a digest')
        name = str(reference)
        try:
            target = records.get(name).target
        except NotFound:
            raise NotFound(
                f'push "{reference.familiar()}": an image does not exist locally with this name',
                hint="give an image that name first: wharfie tag IMAGE " + reference.familiar(),
            ) from None
        cancel = cancel or threading.Event()
        tell = Throttle(progress or (lambda _: None))
        repository = self._registry.repository(reference, credentials, operation="push", cancel=cancel)
        from wharfie.registry.push import Upload

        upload = Upload(repository)
        name_shown = reference.familiar()
        plan = travelling(self._store, target, platform, operation=repository.context.operation, name=name_shown)
        blobs = [blob for blob in plan.blobs if not lives_elsewhere(blob)]
        sources = list(self._sources(reference, records))
        for blob in blobs:
            tell(Progress(blob.digest, Phase.PREPARING, total=blob.size))

        def one(blob: Descriptor) -> None:
            if cancel.is_set():
                raise Cancelled(f"{repository.context.operation}: cancelled")
            self._blob(upload, blob, sources, tell)

        with ThreadPoolExecutor(PARALLEL_BLOBS, "push") as pool:
            futures = [pool.submit(one, blob) for blob in blobs]
            _, pending = wait(futures, return_when=FIRST_EXCEPTION)
            for future in pending:
                future.cancel()
        for future in futures:
            if not future.cancelled():
                future.result()
        top = plan.documents[-1]
        tag = reference.tag or "latest"
        for document in plan.documents:
            data = self._store.read(document.digest, max_bytes=MAX_DOCUMENT_BYTES)
            under = tag if document is top else document.digest
            upload.manifest(document.media_type, data, under, document.digest)
        tell(Progress(name, Phase.DONE, detail=f"{tag}: digest: {top.digest} size: {top.size}"))
        return PushResult(tag, top.digest, top.size)

    def _sources(self, reference: Reference, records: ImageRecords) -> Iterator[tuple[str, frozenset[str]]]:
        """(repository path, blobs) of other repositories of the same registry."""
        for record in records.list():
            if not record.name.startswith(f"{reference.domain}/"):
                continue
            try:
                other = parse_reference(record.name)
            except InvalidArgument:  # a name that a client of the containerd API chose freely
                continue
            if other.path != reference.path:
                held = frozenset(r.id for r in references(self._store, record.target) if r.kind == KIND_BLOB)
                yield other.path, held

    def _blob(
        self, upload: Upload, blob: Descriptor, sources: list[tuple[str, frozenset[str]]], tell: ProgressCallback
    ) -> None:
        if upload.has_blob(blob.digest):
            tell(Progress(blob.digest, Phase.EXISTS, blob.size, blob.size))
            return
        for path, held in sources:
            if blob.digest not in held:
                continue
            with contextlib.suppress(Unauthenticated, PermissionDenied):  # no right to read there: upload instead
                if upload.mount(blob.digest, path):
                    tell(Progress(blob.digest, Phase.MOUNTED, blob.size, blob.size, detail=path))
                    return
            break
        upload.blob(
            blob,
            lambda: self._store.open(blob.digest),
            lambda n: tell(Progress(blob.digest, Phase.PUSHING, n, blob.size)),
        )
        tell(Progress(blob.digest, Phase.PUSHED, blob.size, blob.size))
