# SPDX-License-Identifier: Apache-2.0
"""Volumes: directories that outlive containers, `<root>/volumes/<name>/_data`.

For the container service, in order:
    volume = await volumes.create(name, …, container_id=id)   # made or found, and kept for `id` from then on
    source = volumes.source(volume)                           # what to bind; idmap it where volume.idmap
    await volumes.copy_up(id, rootfs_mounts, [(volume.name, target), …])   # fills empty ones from the image
    await volumes.activate(id)                                # at start: mounts nfs and tmpfs volumes
    await volumes.deactivate(id)                              # at exit
    volumes.release_in(db, ns, id, remove_anonymous=…)        # in the transaction that deletes the container; then
    await volumes.sweep()
A create that fails calls `release(id, remove_anonymous=True)`.

Who uses a volume stands in `refs` (container -> volume). A volume that is going has `removing` set in the transaction
that lets go of it, so a kill at any moment leaves either a volume that is whole or one whose removal `open` finishes.
A volume appears and disappears by rename. Volumes are the engine's, not a namespace's.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from wharfie.daemon.services import volumes_records as records
from wharfie.daemon.services.system_usage import disk_usage
from wharfie.daemon.services.volumes_options import LocalMount, parse_local
from wharfie.daemon.services.volumes_records import KIND_VOLUME, LABEL_ANONYMOUS, Volume
from wharfie.daemon.state import DEFAULT_NAMESPACE, Engine
from wharfie.errdefs import Conflict, InvalidArgument, NotFound, ResourceExhausted, Unsupported
from wharfie.metadata import KIND_CONTAINER, Ref, refs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

    from wharfie.mount import Mount

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}\Z")


class Volumes:
    """All volumes of this engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._root = engine.config.path("volumes")
        self._volumes: dict[str, Volume] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._active: dict[str, set[str]] = {}

    # --- start

    async def open(self) -> None:
        await self._engine.files(self._load)

    async def settle(self) -> None:
        """Once the running containers have been activated again after a start: unmount what nobody uses any more."""
        for volume in self.all():
            if volume.name not in self._active and self._mount_of(volume) and _is_mounted(volume.mountpoint):
                await self._unmount(volume)

    def _load(self) -> None:
        """Read the records, and finish or undo what a kill left half done."""
        store = self._engine.db
        os.makedirs(self._root, mode=0o710, exist_ok=True)
        store.write(records.forget_interrupted)
        for left in os.listdir(self._root):
            if left.startswith("."):
                shutil.rmtree(os.path.join(self._root, left), ignore_errors=True)
        for name, driver, labels, options, created_s, removing in (
            store.reader().execute("SELECT name, driver, labels, options, created_s, removing FROM volumes").fetchall()
        ):
            if removing or not os.path.isdir(self._directory(name)):
                self._erase(name)
                continue
            self._volumes[name] = Volume(
                name,
                driver,
                msgspec.json.decode(labels, type=dict[str, str]),
                msgspec.json.decode(options, type=dict[str, str]),
                created_s,
                self._data(name),
            )
            os.makedirs(self._data(name), exist_ok=True)
        for name in os.listdir(self._root):
            if name not in self._volumes and _NAME.match(name) and os.path.isdir(self._data(name)):
                self._adopt(name)

    def _adopt(self, name: str) -> None:
        """A directory without a record: an interrupted create where it is empty, else somebody's data."""
        if not os.listdir(self._data(name)):
            shutil.rmtree(self._directory(name), ignore_errors=True)
            return
        volume = Volume(name, "local", {}, {}, os.stat(self._data(name)).st_mtime, self._data(name))
        self._engine.db.write(lambda db: records.insert(db, volume), durable=True)
        self._volumes[name] = volume

    def _directory(self, name: str) -> str:
        return os.path.join(self._root, name)

    def _data(self, name: str) -> str:
        return os.path.join(self._root, name, "_data")

    # --- records

    def get(self, name: str) -> Volume:
        """Raises NotFound."""
        volume = self._volumes.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume", hint="`volume ls` lists those there are")
        return volume

    def all(self) -> list[Volume]:
        return sorted(self._volumes.values())

    def source(self, volume: Volume) -> str:
        """Host path to bind into a container."""
        local = parse_local(volume.name, volume.options)
        return local.device if local and local.is_bind else volume.mountpoint

    def users(self, name: str) -> list[str]:
        """Ids of the containers that have the volume."""
        return [
            id_
            for _, kind, id_ in refs.owners(self._engine.db.reader(), Ref(KIND_VOLUME, name))
            if kind == KIND_CONTAINER
        ]

    async def create(
        self,
        name: str = "",
        *,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        container_id: str = "",
        ns: str = DEFAULT_NAMESPACE,
    ) -> Volume:
        """Make volume `name`, or give the one that is there. Without a name it is anonymous.

        With `container_id` it is kept for that container from this moment.
        Raises: InvalidArgument, Unsupported (driver), Conflict (there with other options), ResourceExhausted.
        """
        anonymous = not name
        name = name or secrets.token_hex(32)
        _check_name(name)
        if driver not in {"", "local"}:
            raise Unsupported(
                f"create volume {name!r}: driver {driver!r} is not known", hint="the one volume driver here is local"
            )
        wanted = dict(options or {})
        parse_local(name, wanted)
        async with self._lock(name):
            found = self._volumes.get(name)
            if found is not None:
                if wanted and wanted != found.options:
                    raise Conflict(
                        f"create volume {name!r}: it is there with other options",
                        hint=f"`volume inspect {name}` shows them; remove it first to change them",
                    )
                if container_id:
                    await self.acquire(name, container_id, ns=ns)
                return found
            marks = {LABEL_ANONYMOUS: ""} if anonymous else {}
            volume = Volume(name, "local", {**(labels or {}), **marks}, wanted, time.time(), self._data(name))
            await self._engine.files(self._make_directory, name)

            def write(db: sqlite3.Connection) -> None:
                records.insert(db, volume)
                if container_id:
                    records.use(db, name, (ns, container_id))

            await self._engine.committed(self._engine.db.submit(write, durable=not anonymous))
            self._volumes[name] = volume
        self._publish("create", name, {"driver": "local"})
        return volume

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _publish(self, action: str, name: str, attributes: dict[str, str]) -> None:
        self._engine.events.publish(
            DEFAULT_NAMESPACE, f"/wharfie/volume/{action}", {"name": name}, subject=name, attributes=attributes
        )

    def _make_directory(self, name: str) -> None:
        """The directory appears whole, by rename."""
        temporary = os.path.join(self._root, f".new-{secrets.token_hex(8)}")
        try:
            os.makedirs(temporary, mode=0o710)
            os.mkdir(os.path.join(temporary, "_data"))
            os.chmod(os.path.join(temporary, "_data"), 0o755)
            os.rename(temporary, self._directory(name))
        except OSError as e:
            shutil.rmtree(temporary, ignore_errors=True)
            raise ResourceExhausted(f"create volume {name!r}: {e.strerror}: {self._directory(name)!r}") from e

    async def acquire(self, name: str, container_id: str, *, ns: str = DEFAULT_NAMESPACE) -> Volume:
        """Keep `name` for a container. Raises NotFound."""
        await self._engine.committed(self._engine.db.submit(lambda db: records.use(db, name, (ns, container_id))))
        return self.get(name)

    def release_in(self, db: sqlite3.Connection, ns: str, container_id: str, *, remove_anonymous: bool) -> None:
        """Within a transaction: the container keeps no volume any more. `sweep()` afterwards removes what that freed."""
        records.release(db, ns, container_id, remove_anonymous=remove_anonymous)

    async def release(self, container_id: str, *, remove_anonymous: bool, ns: str = DEFAULT_NAMESPACE) -> None:
        """`release_in` in a transaction of its own, and `sweep`. Idempotent."""
        await self._engine.committed(
            self._engine.db.submit(lambda db: records.release(db, ns, container_id, remove_anonymous=remove_anonymous))
        )
        await self.sweep()

    async def sweep(self) -> None:
        """Remove the volumes that are marked."""
        marked = self._engine.db.reader().execute("SELECT name FROM volumes WHERE removing").fetchall()
        for (name,) in marked:
            await self._finish_removal(name)

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Raises NotFound (not with force), Conflict (in use)."""
        if name not in self._volumes and force:
            return
        self.get(name)

        def write(db: sqlite3.Connection) -> None:
            users = [o[2] for o in refs.owners(db, Ref(KIND_VOLUME, name))]
            if users:
                raise Conflict(
                    f"remove {name}: volume is in use - [{', '.join(users)}]", hint="remove those containers first"
                )
            records.mark_removing(db, name)

        await self._engine.committed(self._engine.db.submit(write, durable=True))
        await self._finish_removal(name)

    async def prune(self, accept: Iterable[Volume]) -> tuple[list[str], int]:
        """Remove those of `accept` that nobody uses: their names, and the bytes that came free."""
        removed: list[str] = []
        freed = 0
        for volume in accept:
            if self.users(volume.name):
                continue
            size = await self._engine.background(disk_usage, volume.mountpoint)
            try:
                await self.remove(volume.name)
            except (Conflict, NotFound):
                continue  # taken or removed in the meantime
            removed.append(volume.name)
            freed += size
        self._publish("prune", "", {"reclaimed": str(freed)})
        return removed, freed

    async def _finish_removal(self, name: str) -> None:
        volume = self._volumes.pop(name, None)
        async with self._lock(name):
            if volume is not None and _is_mounted(volume.mountpoint):
                await self._unmount(volume)
            await self._engine.files(self._erase, name)
        self._locks.pop(name, None)
        if volume is not None:
            self._publish("destroy", name, {"driver": volume.driver})

    def _erase(self, name: str) -> None:
        """Directory first, by rename; then the record. A kill between them is finished by `open`."""
        trash = os.path.join(self._root, f".gone-{secrets.token_hex(8)}")
        try:
            os.rename(self._directory(name), trash)
        except FileNotFoundError:
            pass
        self._engine.db.write(lambda db: db.execute("DELETE FROM volumes WHERE name = ?", (name,)))
        shutil.rmtree(trash, ignore_errors=True)

    # --- work in worker processes

    def _mount_of(self, volume: Volume) -> LocalMount | None:
        local = parse_local(volume.name, volume.options)
        return None if local is None or local.is_bind else local

    def _of(self, container_id: str) -> list[Volume]:
        rows = self._engine.db.reader().execute(
            "SELECT DISTINCT to_id FROM refs WHERE from_kind = ? AND from_id = ? AND to_kind = ?",
            (KIND_CONTAINER, container_id, KIND_VOLUME),
        )
        return [self._volumes[name] for (name,) in rows if name in self._volumes]

    async def activate(self, container_id: str) -> None:
        """Before a start: mount those of the container's volumes that have to be mounted.

        Raises FailedPrecondition: what the kernel says to the volume's options.
        """
        for volume in self._of(container_id):
            local = self._mount_of(volume)
            if local is not None:
                async with self._lock(volume.name):
                    users = self._active.setdefault(volume.name, set())
                    if not users and not _is_mounted(volume.mountpoint):
                        await self._engine.tasks.worker(
                            "volume-mount", msgspec.json.encode([volume.name, volume.mountpoint, *local])
                        )
                    users.add(container_id)
            self._publish("mount", volume.name, {"driver": volume.driver, "container": container_id})

    async def deactivate(self, container_id: str) -> None:
        """After an exit: unmount what no other running container uses."""
        for volume in self._of(container_id):
            users = self._active.get(volume.name)
            if users is not None and container_id in users:
                async with self._lock(volume.name):
                    users.discard(container_id)
                    if not users:
                        del self._active[volume.name]
                        await self._unmount(volume)
            self._publish("unmount", volume.name, {"driver": volume.driver, "container": container_id})

    async def _unmount(self, volume: Volume) -> None:
        await self._engine.tasks.worker("volume-unmount", msgspec.json.encode([volume.name, volume.mountpoint]))

    async def copy_up(self, container_id: str, rootfs: Sequence[Mount], volumes: Sequence[tuple[str, str]]) -> None:
        """Fill the empty ones of `volumes` (name, directory in the image) with what the image has there.

        The volume's own directory takes owner and mode of the image's. Raises what reading or writing raises.
        """
        jobs = []
        for name, target in volumes:
            volume = self.get(name)
            if self._mount_of(volume) is not None:
                continue  # a tmpfs or nfs volume shows what its server has
            directory = self.source(volume)
            if await self._engine.files(_is_empty, directory):
                alone = directory == volume.mountpoint and self.users(name) in ([], [container_id])
                jobs.append((target, directory, alone))
        if jobs:
            await self._engine.tasks.worker(
                "volume-copy-up", msgspec.json.encode({"rootfs": list(rootfs), "jobs": jobs})
            )


def _is_mounted(directory: str) -> bool:
    """From the mount table: asking a dead NFS server would hang."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        return any(line.split(" ", 5)[4] == directory for line in f)


def _is_empty(directory: str) -> bool:
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is None
    except OSError as e:
        raise NotFound(f"use volume directory {directory!r}: {e.strerror}") from e


def _check_name(name: str) -> None:
    if not _NAME.match(name):
        raise InvalidArgument(
            f"create {name}: {name!r} includes invalid characters for a local volume name",
            hint="only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed; a host directory is given as an absolute path",
        )
