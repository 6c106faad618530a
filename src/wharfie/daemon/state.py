# SPDX-License-Identifier: Apache-2.0
"""The engine: what every service and every API handler gets its hands on, and what services want of each other.

`Engine` holds stores, pools and service slots; `builtins` fills the slots. A service is a class with
`__init__(engine)` (or a function that makes one), and if it wants `async open()` and `async close()`, called in the order of the table and in reverse.
The Protocols here are the contracts between services of different nouns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from wharfie.metadata import Ref
from wharfie.spec.image import Descriptor, ImageConfig
from wharfie.spec.platform import Platform

if TYPE_CHECKING:
    from wharfie.content import Store as ContentStore
    from wharfie.daemon.config import Config
    from wharfie.daemon.services.containers import Containers
    from wharfie.daemon.services.exec import Execs
    from wharfie.daemon.services.gc import Collector
    from wharfie.events.exchange import Exchange
    from wharfie.metadata.store import Store
    from wharfie.mount import Mount
    from wharfie.oci.facts import HostFacts
    from wharfie.snapshots import Probe, Snapshotter
    from wharfie.tasks import TaskManager

T = TypeVar("T")

DEFAULT_NAMESPACE = "default"


class ContainerImage(NamedTuple):
    """What a container needs to know of its image.

    `text`: as asked for. `name`: record's name. `target`: what the name points to; its digest is Docker's image id.
    `manifest`: the manifest chosen for the platform. `chain_id`: committed snapshot of the whole stack, None for an
    image without layers. `extra_ids`: owners above 65535 in its layers. `refs`: what a container made of it keeps;
    empty for target and manifest alone.
    """

    text: str
    name: str
    target: Descriptor
    manifest: Descriptor
    config: ImageConfig
    chain_id: str | None
    snapshotter: str
    extra_ids: tuple[int, ...] = ()
    refs: tuple[Ref, ...] = ()


class ImagesService(Protocol):
    async def for_container(self, namespace: str, text: str, platform: Platform | None) -> ContainerImage:
        """Find an image by name, id or id prefix, ready to run: its snapshot `chain_id` is committed when this returns.

        Raises: NotFound `no such image: TEXT` (clients then pull), FailedPrecondition (other platform only).
        """


class RootfsService(Protocol):
    """How others (cp, export, commit, diff) reach a container's files. Implemented by `services/containers`."""

    def snapshot(self, namespace: str, name: str) -> tuple[Snapshotter, str, str | None]:
        """(snapshotter, key, parent chain_id) of a container. Raises NotFound."""

    def mounts(self, namespace: str, name: str) -> list[Mount]:
        """The root file system's plain mounts, not idmapped."""


class Pools(NamedTuple):
    """Bounded thread pools, one per kind of work, so that no kind starves another (decisions 4)."""

    files: ThreadPoolExecutor
    """Short file system work: snapshots, bundles, volumes."""
    transfer: ThreadPoolExecutor
    """Pulls, pushes, loads: long, mostly waiting for the network."""
    background: ThreadPoolExecutor
    """Garbage collection, disk usage."""
    streams: ThreadPoolExecutor
    """Copies to clients that last as long as these like: logs of stopped containers."""


class Engine:
    """The whole daemon. Slots are filled by `daemon.main` in this order: stores, pools, services."""

    config: Config
    loop: asyncio.AbstractEventLoop
    pools: Pools
    db: Store
    content: ContentStore
    snapshotters: dict[str, Snapshotter]
    """All that work on this host, by name; `snapshotter` is the default one."""
    snapshotter: Snapshotter
    snapshotter_probes: list[Probe]
    tasks: TaskManager
    events: Exchange
    host: HostFacts
    runtimes: dict[str, str]
    """Names that --runtime takes, with what runs each (`services.runtimes`)."""
    started_s: float

    containers: Containers
    execs: Execs
    collector: Collector
    images: Any
    """E.g. `services.images.Images`; containers use it as ImagesService."""
    volumes: Any
    networks: Any
    system: Any

    def __init__(self, config: Config) -> None:
        self.config = config
        self._tasks: set[asyncio.Task[Any]] = set()

    async def files(self, fn: Callable[..., T], *args: Any) -> T:
        """Run short blocking file system work in its pool."""
        return await self.loop.run_in_executor(self.pools.files, fn, *args)

    async def transfer(self, fn: Callable[..., T], *args: Any) -> T:
        return await self.loop.run_in_executor(self.pools.transfer, fn, *args)

    async def background(self, fn: Callable[..., T], *args: Any) -> T:
        return await self.loop.run_in_executor(self.pools.background, fn, *args)

    async def committed(self, future: Future[T]) -> T:
        """Wait for a `Store.submit`."""
        return await asyncio.wrap_future(future, loop=self.loop)

    def spawn(self, coroutine: Any, name: str) -> asyncio.Task[Any]:
        """A task of the engine's own: kept alive, its failure logged, cancelled at shutdown."""
        task = self.loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            import logging

            logging.getLogger("wharfie.daemon").error("task %s ended: %s", task.get_name(), error, exc_info=error)

    async def cancel_spawned(self) -> None:
        tasks: Iterable[asyncio.Task[Any]] = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
