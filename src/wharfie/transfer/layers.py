# SPDX-License-Identifier: Apache-2.0
"""Getting layers: downloaded, stored and unpacked in one pass, each once however many pulls want it.

A chunk goes from the socket into the content writer (which hashes it) and into a pipe to the unpacker, so a layer is
mountable shortly after its last byte arrived. The layer's own digest is verified by the unpacker before the layer
exists, the blob's by the writer before the blob exists; neither waits for the other.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from wharfie.content import Store, Writer
from wharfie.errdefs import Cancelled, DataLoss, ResourceExhausted, Unavailable, WharfieError
from wharfie.snapshots import LayerInfo, Snapshotter
from wharfie.spec.image import LAYER_COMPRESSION, Descriptor
from wharfie.transfer import Phase, Progress, ProgressCallback, Unpacker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.registry.hosts import Host
    from wharfie.registry.repository import Repository

if sys.platform == "linux":
    from fcntl import F_SETPIPE_SZ, fcntl

CHUNK_BYTES = 1 << 20
_ATTEMPTS = 5
_REAL_PROGRESS_BYTES = 256 << 10
"""A connection that gave at least this much counts as one that works: the count of attempts starts again."""


class Layer(NamedTuple):
    descriptor: Descriptor
    diff_id: str


class _Job:
    """One layer on its way. `wanted` counts the pulls that wait for it; at zero it is cancelled."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.fetched = False
        self.wanted = 0
        self.cancel = threading.Event()
        self.listeners: list[ProgressCallback] = []
        self.last: Progress | None = None

    def tell(self, progress: Progress) -> None:
        self.last = progress
        for listener in tuple(self.listeners):
            listener(progress)


class Layers:
    """Gets layers for all pulls of one daemon (one content store, one snapshotter). Thread-safe."""

    def __init__(self, store: Store, snapshotter: Snapshotter, unpacker: Unpacker, max_size_bytes: int | None) -> None:
        self.store = store
        self.snapshotter = snapshotter
        self.unpacker = unpacker
        self.max_size_bytes = max_size_bytes
        self._jobs: dict[tuple[str, str], _Job] = {}
        self._lock = threading.Lock()

    def present(self, layer: Layer) -> bool:
        """Both forms are there: unpacked to run, and as the blob that push and save hand on."""
        return self.store.has(layer.descriptor.digest) and self.snapshotter.has_layer(layer.diff_id)

    def get(
        self, repository: Repository, layer: Layer, progress: ProgressCallback, cancelled: Callable[[], bool]
    ) -> bool:
        """Make `layer` present; True if bytes were downloaded. Joins a job of another pull where there is one.

        Raises: what registry, content and snapshotter raise; Cancelled.
        """
        key = (layer.descriptor.digest, layer.diff_id)
        while True:
            with self._lock:
                job = self._jobs.get(key)
                mine = job is None
                if job is None:
                    job = self._jobs[key] = _Job()
                job.wanted += 1
                job.listeners.append(progress)
            try:
                if mine:
                    self._run(job, key, repository, layer)
                elif job.last is not None:
                    progress(job.last)
                while not job.done.wait(0.1):
                    if cancelled():
                        raise Cancelled(f"{repository.context.operation}: cancelled")
            finally:
                with self._lock:
                    job.wanted -= 1
                    job.listeners.remove(progress)
                    if not job.wanted:
                        job.cancel.set()
            if job.error is None:
                return job.fetched
            if mine:
                raise job.error
            # Somebody else's download failed, perhaps for a reason of its own (registry, login, cancel): try ourselves.

    def _run(self, job: _Job, key: tuple[str, str], repository: Repository, layer: Layer) -> None:
        def work() -> None:
            try:
                job.fetched = _Fetch(self, repository, layer, job).run(present=self.present(layer))
            except BaseException as e:
                job.error = e
            finally:
                with self._lock:
                    del self._jobs[key]
                job.done.set()

        threading.Thread(target=work, name=f"layer-{layer.descriptor.digest[7:19]}", daemon=True).start()


class _Fetch:
    """One run for one layer."""

    def __init__(self, owner: Layers, repository: Repository, layer: Layer, job: _Job) -> None:
        self._store = owner.store
        self._unpacker = owner.unpacker
        self._max_size_bytes = owner.max_size_bytes
        self._repository = repository
        self._descriptor = layer.descriptor
        self._diff_id = layer.diff_id
        self._job = job
        self._served_by: Host | None = None

    def run(self, *, present: bool) -> bool:
        if present:
            self._tell(Phase.EXISTS)
            return False
        digest = self._descriptor.digest
        if self._store.has(digest):
            self._unpack_stored()
            return False
        while True:
            writer = self._open_writer()
            if writer is None:  # another process finished it meanwhile
                self._unpack_stored()
                return False
            resumed = writer.offset > 0
            try:
                self._download(writer)
            except DataLoss:
                writer.discard()
                elsewhere = self._served_by is not None and self._repository.blame(self._served_by)
                if not resumed and not elsewhere:
                    raise
                # Once more from the start: a power cut may have damaged what an earlier run left, or a mirror lies.
            except ResourceExhausted:
                writer.discard()
                raise
            else:
                return True
            finally:
                writer.close()

    def _open_writer(self) -> Writer | None:
        """The ingest of this blob, once nobody else has it; None if the blob appears meanwhile."""
        digest = self._descriptor.digest
        while True:
            try:
                return self._store.writer(f"layer-{digest}", total_bytes=self._descriptor.size, digest=digest)
            except Unavailable:
                self._tell(Phase.WAITING, detail="another process downloads it")
                self._pause(0.2)
                if self._store.has(digest):
                    return None

    def _unpack_stored(self) -> None:
        self._tell(Phase.DOWNLOADED)
        self._tell(Phase.EXTRACTING)
        self._unpack(self._store.open(self._descriptor.digest))
        self._tell(Phase.PULLED)

    def _unpack(self, fd: int) -> LayerInfo:
        compression = LAYER_COMPRESSION[self._descriptor.media_type]
        return self._unpacker(fd, compression, self._diff_id, self._max_size_bytes)

    def _download(self, writer: Writer) -> None:
        read_fd, write_fd = _pipe()
        with ThreadPoolExecutor(1, "unpack") as pool, contextlib.ExitStack() as stack:
            unpacked = pool.submit(self._unpack, read_fd)
            pipe = stack.enter_context(os.fdopen(write_fd, "wb", buffering=0))
            try:
                for chunk in writer.replay():
                    _feed(pipe.fileno(), chunk)
                self._receive(writer, pipe.fileno())
            except BrokenPipeError:
                unpacked.result()  # says why it stopped reading
                raise Unavailable(
                    f"{self._repository.context.operation}: the unpacker of {self._descriptor.digest} stopped reading"
                ) from None
            except BaseException:
                stack.close()
                _outcome(unpacked)
                raise
            stack.close()
            try:
                self._tell(Phase.VERIFYING)
                writer.commit(self._descriptor.size, self._descriptor.digest)
                self._tell(Phase.DOWNLOADED)
                self._tell(Phase.EXTRACTING)
            except BaseException:
                _outcome(unpacked)
                raise
            unpacked.result()
        self._tell(Phase.PULLED)

    def _receive(self, writer: Writer, pipe: int) -> None:
        size = self._descriptor.size
        attempt, mark = 0, writer.offset
        self._tell(Phase.DOWNLOADING, writer.offset)
        while writer.offset < size:
            try:
                self._receive_once(writer, pipe)
            except Unavailable as e:
                if writer.offset - mark >= _REAL_PROGRESS_BYTES:
                    attempt = 0
                attempt, mark = attempt + 1, writer.offset
                if attempt >= _ATTEMPTS:
                    raise
                self._tell(Phase.RETRYING, writer.offset, detail=e.message)
                options = self._repository.transport.options
                self._pause(options.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))

    def _receive_once(self, writer: Writer, pipe: int) -> None:
        stream = self._repository.fetch(self._descriptor, writer.offset)
        self._served_by = stream.host
        try:
            while chunk := stream.read(CHUNK_BYTES):
                writer.write(chunk)
                _feed(pipe, chunk)
                self._tell(Phase.DOWNLOADING, writer.offset)
                if self._job.cancel.is_set():
                    raise Cancelled(f"{self._repository.context.operation}: cancelled")
        except Unavailable:
            self._repository.blame(stream.host)
            raise
        except BaseException:
            stream.close()
            raise

    def _pause(self, delay_s: float) -> None:
        if self._job.cancel.wait(delay_s):
            raise Cancelled(f"{self._repository.context.operation}: cancelled")

    def _tell(self, phase: str, current: int = 0, *, detail: str = "") -> None:
        self._job.tell(Progress(self._descriptor.digest, phase, current, self._descriptor.size, detail))


def _pipe() -> tuple[int, int]:
    read_fd, write_fd = os.pipe()
    if sys.platform == "linux":
        with contextlib.suppress(PermissionError):  # the user's pipe quota is used up: a small pipe works too
            fcntl(write_fd, F_SETPIPE_SZ, CHUNK_BYTES)
    return read_fd, write_fd


def _feed(pipe: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(pipe, view) :]


def _outcome(future: Future[LayerInfo]) -> None:
    """Wait for an unpacker whose failure only follows from one that is being raised."""
    error = future.exception()
    if error is not None and not isinstance(error, WharfieError | OSError):
        raise error
