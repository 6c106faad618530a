# SPDX-License-Identifier: Apache-2.0
"""All containers of the engine: the registry in memory, and the face that APIs call.

Create, run and remove live in modules of their own (`containers_create`, `containers_run`, `containers_remove`); what a
restart finds is sorted out by `reconcile`. Records are written through to metadata; reads never touch the database.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from wharfie.daemon.services import containers_create, containers_remove, containers_run, reconcile
from wharfie.daemon.services import containers_records as records
from wharfie.daemon.services.attach import Parking
from wharfie.daemon.services.container import Container
from wharfie.daemon.services.ids import check_name
from wharfie.daemon.services.userns import IdRange, check_range
from wharfie.errdefs import Conflict, InvalidArgument, NotFound
from wharfie.metadata import containers as rows

if TYPE_CHECKING:
    from wharfie.daemon.state import Engine
    from wharfie.mount import Mount
    from wharfie.oci.facts import HostFacts
    from wharfie.snapshots import Snapshotter
    from wharfie.spec.docker import ContainerCreateBody, UpdateBody
    from wharfie.spec.platform import Platform


class Containers:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ids = IdRange(*engine.config.userns_range)
        self.parking = Parking(self)
        self.run = containers_run.Runner(self)
        self._by_id: dict[str, dict[str, Container]] = {}
        self._by_name: dict[str, dict[str, str]] = {}

    async def open(self) -> None:
        """Load the records and find out what became of each (decisions 3)."""
        if self.engine.config.userns == "auto" and not self.engine.host.userns:
            check_range(*self.engine.config.userns_range)
        await reconcile.reconcile(self)

    async def close(self) -> None:
        """Let go of all; tasks live on."""
        self.parking.close()
        for container in self.all():
            if container.restart_timer is not None:
                container.restart_timer.cancel()

    # --- registry

    def add(self, container: Container) -> None:
        self._by_id.setdefault(container.ns, {})[container.id] = container
        self._by_name.setdefault(container.ns, {})[container.name] = container.id

    def reserve_name(self, ns: str, name: str, id_: str) -> None:
        """Raises Conflict. Release with `free_name` if nothing comes of it."""
        names = self._by_name.setdefault(ns, {})
        owner = names.get(name)
        if owner is not None:
            raise Conflict(
                f'the container name "/{name}" is already in use by container "{owner}"',
                hint="remove or rename that container, or choose another name",
            )
        names[name] = id_

    def free_name(self, ns: str, name: str) -> None:
        self._by_name.get(ns, {}).pop(name, None)

    def name_taken(self, ns: str, name: str) -> bool:
        return name in self._by_name.get(ns, ())

    def forget(self, container: Container) -> None:
        self._by_id.get(container.ns, {}).pop(container.id, None)
        names = self._by_name.get(container.ns, {})
        if names.get(container.name) == container.id:
            del names[container.name]

    def all(self, ns: str | None = None) -> list[Container]:
        """Of one namespace or all, oldest first."""
        if ns is not None:
            return list(self._by_id.get(ns, {}).values())
        return [c for one in self._by_id.values() for c in one.values()]

    def find(self, ns: str, text: str) -> Container:
        """By id, name or id prefix, in this order. Raises NotFound, InvalidArgument (prefix of several)."""
        by_id = self._by_id.get(ns, {})
        found = by_id.get(text)
        if found is None:
            named = self._by_name.get(ns, {}).get(text.removeprefix("/"))
            found = by_id.get(named) if named else None
        if found is None and text and all(c in "0123456789abcdef" for c in text):
            matches = [c for id_, c in by_id.items() if id_.startswith(text)]
            if len(matches) > 1:
                raise InvalidArgument(f"multiple IDs found with provided prefix: {text}", hint="give more digits")
            found = matches[0] if matches else None
        if found is None or (found.gone and found.id not in by_id):
            raise NotFound(f"no such container: {text}")
        return found

    def using_image(self, ns: str, digests: Iterable[str]) -> list[Container]:
        """Containers made from one of these image ids or manifests."""
        wanted = frozenset(digests)
        return [c for c in self.all(ns) if c.summary.image_id in wanted]

    def counts(self, ns: str | None = None) -> tuple[int, int, int]:
        """(running, paused, stopped)."""
        states = [c.state.status for c in self.all(ns)]
        running = sum(s in {records.RUNNING, records.RESTARTING} for s in states)
        paused = states.count(records.PAUSED)
        return running, paused, len(states) - running - paused

    # --- verbs

    async def create(
        self, ns: str, name: str, body: ContainerCreateBody, platform: Platform | None, *, call: Any = None
    ) -> tuple[Container, list[str]]:
        """A new container, and warnings. Raises what `specgen` and the services raise, and Conflict (name)."""
        return await containers_create.create(self, ns, name, body, platform=platform, call=call)

    async def remove(self, container: Container, *, force: bool = False, volumes: bool = False) -> None:
        """Raises Conflict (running, without force)."""
        await containers_remove.remove(self, container, force=force, volumes=volumes)

    async def rename(self, container: Container, name: str) -> None:
        """Raises Conflict, InvalidArgument."""
        name = check_name(name)
        if name == container.name:
            raise InvalidArgument(f"rename container {name!r}: it has this name already")
        async with container.lock:
            self._alive(container)
            old = container.name
            self.reserve_name(container.ns, name, container.id)
            try:
                await self.engine.committed(
                    self.engine.db.submit(lambda db: rows.rename(db, container.ns, container.id, name), durable=True)
                )
            except BaseException:
                self.free_name(container.ns, name)
                raise
            container.name = name
            self.free_name(container.ns, old)
        self.publish(container, "/wharfie/container/rename", {"old": old}, oldName=f"/{old}")

    async def update(self, container: Container, body: UpdateBody) -> list[str]:
        """New limits and restart policy. Raises what validation raises."""
        from wharfie.daemon.services import containers_update

        return await containers_update.update(self, container, body)

    @staticmethod
    def _alive(container: Container) -> None:
        if container.gone:
            raise NotFound(f"no such container: {container.id}")

    # --- for others

    def publish(
        self,
        container: Container,
        topic: str,
        payload: dict[str, Any] | None = None,
        *,
        timestamp_ns: int | None = None,
        **attributes: str,
    ) -> None:
        """An event about a container; image, name and labels come along for Docker's view."""
        summary = container.summary
        self.engine.events.publish(
            container.ns,
            topic,
            {"container_id": container.id, **(payload or {})},
            subject=container.id,
            attributes={**summary.labels, "image": summary.image, "name": container.name, **attributes},
            timestamp_ns=timestamp_ns,
        )

    def save_state(self, container: Container) -> None:
        """Write the state behind; nobody waits for it (it is a cache: decisions 3)."""
        if container.gone:
            return
        data = records.encode(container.state)
        self.engine.db.submit(lambda db: rows.put_state(db, container.ns, container.id, data))

    async def save_document(self, container: Container, document: records.Document) -> None:
        raw = container.set_document(document)
        await self.engine.committed(
            self.engine.db.submit(
                lambda db: rows.put_extension(db, container.ns, container.id, rows.EXTENSION_DOCKER, raw), durable=True
            )
        )

    def snapshotter_of(self, container: Container) -> Snapshotter:
        """Raises NotFound where the snapshotter does not work any more."""
        found = self.engine.snapshotters.get(container.snapshotter)
        if found is None:
            raise NotFound(
                f"use container {container.short}: its snapshotter {container.snapshotter!r} is not there",
                hint="`wharfie info` says why it does not work on this host",
            )
        return found

    def snapshot(self, ns: str, name: str) -> tuple[Snapshotter, str, str | None]:
        """(snapshotter, key, parent chain_id) of a container. Raises NotFound."""
        container = self.find(ns, name)
        return self.snapshotter_of(container), container.snapshot_key, container.document().chain_id

    def mounts(self, ns: str, name: str) -> list[Mount]:
        """The root file system's plain mounts, not idmapped. Blocking. Raises NotFound."""
        container = self.find(ns, name)
        return self.snapshotter_of(container).mounts(container.snapshot_key)

    def touch_files(self, ns: str, name: str) -> None:
        """Files were put into the container from outside (cp): its user is looked up again at the next start."""
        self.find(ns, name).document_dirty_user = True

    def host(self) -> HostFacts:
        return self.engine.host
