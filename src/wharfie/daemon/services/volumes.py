# SPDX-License-Identifier: Apache-2.0
"""Volumes: directories that outlive containers, `<root>/volumes/<name>/_data`.

For the container service, in order:
    volume = await volumes.create(name, …, container_id=id)   # made or found, and kept for `id` from then on
    await volumes.copy_up(id, rootfs_mounts, [(volume.name, target), …])   # fills empty ones from the image
    source = volumes.source(volume)                           # what to bind; idmap it where volume.idmap
    await volumes.activate(id)                                # at start: mounts nfs and tmpfs volumes
    await volumes.deactivate(id)                              # at exit
    volumes.release_in(db, ns, id, remove_anonymous=…)        # in the transaction that deletes the container; then
    await volumes.sweep()
A create that fails calls `release(id, remove_anonymous=True)`.

Who uses a volume stands in `refs` (container -> volume). A volume that is going has `removing` set in that same
transaction, so a kill at any moment leaves either a volume that is used or one that the next start finishes removing.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from wharfie.daemon.services.volumes_options import LocalMount, parse_local
from wharfie.errdefs import Conflict, InvalidArgument, NotFound, ResourceExhausted, Unsupported
from wharfie.metadata import KIND_CONTAINER, Ref, refs
from wharfie.metadata.store import Store
from wharfie.mount import Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

KIND_VOLUME = "volume"
LABEL_ANONYMOUS = "com.docker.volume.anonymous"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}\Z")
_TABLES = (
    """
    CREATE TABLE volumes (
        name TEXT PRIMARY KEY, driver TEXT NOT NULL, labels BLOB NOT NULL, options BLOB NOT NULL,
        created_s REAL NOT NULL, removing INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    """,
)


class Volume(NamedTuple):
    """One record. `mountpoint` is the host directory that people see; `source()` is what a container binds."""

    name: str
    driver: str
    labels: dict[str, str]
    options: dict[str, str]
    created_s: float
    mountpoint: str

    @property
    def anonymous(self) -> bool:
        return LABEL_ANONYMOUS in self.labels

    @property
    def idmap(self) -> bool:
        """Whether its file system can be idmapped; network file systems cannot."""
        return not self.options.get("type", "").startswith(("nfs", "cifs", "smb", "9p"))


class Worker(Protocol):
    """`TaskManager.worker`."""

    async def __call__(self, entry: str, args: bytes, fds: Sequence[int] = ()) -> bytes: ...


class Emit(Protocol):
    """Publishes one of Docker's volume events."""

    def __call__(self, action: str, name: str, attributes: Mapping[str, str]) -> None: ...


def register(store: Store) -> None:
    """Before the store is opened."""
    store.register("volumes", _TABLES)


class Volumes:
    """All volumes of this engine. `open()` after the store and before any container starts."""

    def __init__(self, root: str, store: Store, worker: Worker, emit: Emit) -> None:
        self._root, self._store, self._worker, self._emit = root, store, worker, emit
        self._volumes: dict[str, Volume] = {}
        self._active: dict[str, set[str]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    # --- start

    def open(self) -> None:
        """Load the records, and finish or undo what a kill left half done. Blocking."""
        os.makedirs(self._root, mode=0o710, exist_ok=True)
        self._store.write(_forget_interrupted)
        for left in os.listdir(self._root):
            if left.startswith("."):
                shutil.rmtree(os.path.join(self._root, left), ignore_errors=True)
        db = self._store.reader()
        for name, driver, labels, options, created_s, removing in db.execute("SELECT * FROM volumes").fetchall():
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
        for name in os.listdir(self._root):
            if name not in self._volumes and _NAME.match(name) and os.path.isdir(self._data(name)):
                self._adopt(name)

    def _adopt(self, name: str) -> None:
        """A directory without a record: an interrupted create where it is empty, else somebody's data."""
        if not os.listdir(self._data(name)):
            shutil.rmtree(self._directory(name), ignore_errors=True)
            return
        volume = Volume(name, "local", {}, {}, os.stat(self._data(name)).st_mtime, self._data(name))
        self._store.write(lambda db: _insert(db, volume), durable=True)
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
            id_ for _, kind, id_ in refs.owners(self._store.reader(), Ref(KIND_VOLUME, name)) if kind == KIND_CONTAINER
        ]

    async def create(
        self,
        name: str = "",
        *,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        container_id: str = "",
        ns: str = "default",
    ) -> Volume:
        """Make volume `name`, or give the one that is there. Without a name it is anonymous.

        With container_id it is kept for that container from this moment.
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
        async with self._locks.setdefault(name, asyncio.Lock()):
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
            self._make_directory(name)

            def write(db: sqlite3.Connection) -> None:
                _insert(db, volume)
                if container_id:
                    refs.add(db, ns, Ref(KIND_CONTAINER, container_id), [Ref(KIND_VOLUME, name)])

            await asyncio.wrap_future(self._store.submit(write, durable=not anonymous))
            self._volumes[name] = volume
        self._emit("create", name, {"driver": "local"})
        return volume

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

    async def acquire(self, name: str, container_id: str, *, ns: str = "default") -> Volume:
        """Keep `name` for a container. Raises NotFound."""

        def write(db: sqlite3.Connection) -> None:
            if db.execute("SELECT 1 FROM volumes WHERE name = ? AND NOT removing", (name,)).fetchone() is None:
                raise NotFound(f"get {name}: no such volume")
            refs.add(db, ns, Ref(KIND_CONTAINER, container_id), [Ref(KIND_VOLUME, name)])

        await asyncio.wrap_future(self._store.submit(write))
        return self.get(name)

    def release_in(self, db: sqlite3.Connection, ns: str, container_id: str, *, remove_anonymous: bool) -> None:
        """Within a transaction: the container keeps no volume any more. `sweep()` afterwards removes what that freed."""
        rows = db.execute(
            "SELECT to_id FROM refs WHERE ns = ? AND from_kind = ? AND from_id = ? AND to_kind = ?",
            (ns, KIND_CONTAINER, container_id, KIND_VOLUME),
        ).fetchall()
        if not rows:
            return
        db.execute(
            "DELETE FROM refs WHERE ns = ? AND from_kind = ? AND from_id = ? AND to_kind = ?",
            (ns, KIND_CONTAINER, container_id, KIND_VOLUME),
        )
        if remove_anonymous:
            for (name,) in rows:
                volume = self._volumes.get(name)
                if volume is not None and volume.anonymous:
                    _mark_removing(db, name)

    async def release(self, container_id: str, *, remove_anonymous: bool, ns: str = "default") -> None:
        """`release_in` in a transaction of its own, and `sweep`."""
        await asyncio.wrap_future(
            self._store.submit(lambda db: self.release_in(db, ns, container_id, remove_anonymous=remove_anonymous))
        )
        await self.sweep()

    async def sweep(self) -> None:
        """Remove the volumes that are marked."""
        marked = [r[0] for r in self._store.reader().execute("SELECT name FROM volumes WHERE removing")]
        for name in marked:
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
            _mark_removing(db, name)

        await asyncio.wrap_future(self._store.submit(write, durable=True))
        await self._finish_removal(name)

    async def prune(self, accept: Iterable[Volume]) -> tuple[list[str], int]:
        """Remove those of `accept` that nobody uses: their names, and the bytes that came free."""
        removed: list[str] = []
        freed = 0
        for volume in accept:
            if self.users(volume.name):
                continue
            size = await asyncio.to_thread(disk_usage, volume.mountpoint)
            try:
                await self.remove(volume.name)
            except (Conflict, NotFound):
                continue  # taken or removed in the meantime
            removed.append(volume.name)
            freed += size
        return removed, freed

    async def _finish_removal(self, name: str) -> None:
        volume = self._volumes.pop(name, None)
        if volume is not None and self._active.pop(name, None) is not None:
            await self._unmount(volume)
        await asyncio.to_thread(self._erase, name)
        if volume is not None:
            self._emit("destroy", name, {"driver": volume.driver})

    def _erase(self, name: str) -> None:
        """Directory first, by rename; then the record. A kill between them is finished by `open`."""
        trash = os.path.join(self._root, f".gone-{secrets.token_hex(8)}")
        try:
            os.rename(self._directory(name), trash)
        except FileNotFoundError:
            pass
        self._store.write(lambda db: db.execute("DELETE FROM volumes WHERE name = ?", (name,)))
        shutil.rmtree(trash, ignore_errors=True)

    # --- use

    def _mount_of(self, volume: Volume) -> LocalMount | None:
        local = parse_local(volume.name, volume.options)
        return None if local is None or local.is_bind else local

    async def activate(self, container_id: str) -> None:
        """Before a start: mount those of the container's volumes that have to be mounted. Raises FailedPrecondition."""
        for volume in self._of(container_id):
            local = self._mount_of(volume)
            if local is None:
                continue
            async with self._locks.setdefault(volume.name, asyncio.Lock()):
                users = self._active.setdefault(volume.name, set())
                if not users and not _is_mounted(volume.mountpoint):
                    await self._worker("volume-mount", msgspec.json.encode([volume.name, volume.mountpoint, *local]))
                users.add(container_id)
            self._emit("mount", volume.name, {"driver": volume.driver, "container": container_id})

    async def deactivate(self, container_id: str) -> None:
        """After an exit: unmount what no other running container uses."""
        for volume in self._of(container_id):
            users = self._active.get(volume.name)
            if users is None or container_id not in users:
                continue
            async with self._locks.setdefault(volume.name, asyncio.Lock()):
                users.discard(container_id)
                if not users:
                    del self._active[volume.name]
                    await self._unmount(volume)
            self._emit("unmount", volume.name, {"driver": volume.driver, "container": container_id})

    async def _unmount(self, volume: Volume) -> None:
        await self._worker("volume-unmount", msgspec.json.encode([volume.name, volume.mountpoint]))

    async def settle(self) -> None:
        """Once the running containers have been activated again after a start: unmount what nobody uses any more."""
        for volume in self.all():
            if volume.name not in self._active and self._mount_of(volume) and _is_mounted(volume.mountpoint):
                await self._unmount(volume)

    def _of(self, container_id: str) -> list[Volume]:
        rows = self._store.reader().execute(
            "SELECT DISTINCT to_id FROM refs WHERE from_kind = ? AND from_id = ? AND to_kind = ?",
            (KIND_CONTAINER, container_id, KIND_VOLUME),
        )
        return [self._volumes[name] for (name,) in rows if name in self._volumes]

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
            if not _is_empty(directory):
                continue
            alone = directory == volume.mountpoint and self.users(name) in ([], [container_id])
            jobs.append([target, directory, alone])
        if jobs:
            await self._worker("volume-copy-up", msgspec.json.encode({"rootfs": rootfs, "jobs": jobs}))


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


def disk_usage(directory: str) -> int:
    """Bytes of the blocks below `directory`, a file with several names once. Blocking."""
    seen: set[tuple[int, int]] = set()
    total = 0
    stack = [directory]
    while stack:
        try:
            entries = os.scandir(stack.pop())
        except OSError:
            continue  # removed while we look
        with entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                    if (found.st_dev, found.st_ino) in seen:
                        continue
                    seen.add((found.st_dev, found.st_ino))
                total += found.st_size if not entry.is_dir(follow_symlinks=False) else 0
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
    return total


def _check_name(name: str) -> None:
    if not _NAME.match(name):
        raise InvalidArgument(
            f"create {name}: {name!r} includes invalid characters for a local volume name",
            hint="only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed; a host directory is given as an absolute path",
        )


def _insert(db: sqlite3.Connection, volume: Volume) -> None:
    db.execute(
        "INSERT OR REPLACE INTO volumes VALUES (?, ?, ?, ?, ?, 0)",
        (
            volume.name,
            volume.driver,
            msgspec.json.encode(volume.labels),
            msgspec.json.encode(volume.options),
            volume.created_s,
        ),
    )


def _mark_removing(db: sqlite3.Connection, name: str) -> None:
    db.execute(
        "UPDATE volumes SET removing = 1 WHERE name = ?"
        " AND NOT EXISTS (SELECT 1 FROM refs WHERE to_kind = ? AND to_id = volumes.name)",
        (name, KIND_VOLUME),
    )


def _forget_interrupted(db: sqlite3.Connection) -> None:
    """Containers whose create was cut short keep nothing; their anonymous volumes go."""
    rows = db.execute(
        "SELECT DISTINCT r.ns, r.from_id, r.to_id, v.labels FROM refs r LEFT JOIN volumes v ON v.name = r.to_id"
        " WHERE r.from_kind = ? AND r.to_kind = ?"
        " AND NOT EXISTS (SELECT 1 FROM containers c WHERE c.ns = r.ns AND c.id = r.from_id)",
        (KIND_CONTAINER, KIND_VOLUME),
    ).fetchall()
    for ns, container_id, name, labels in rows:
        db.execute(
            "DELETE FROM refs WHERE ns = ? AND from_kind = ? AND from_id = ? AND to_kind = ? AND to_id = ?",
            (ns, KIND_CONTAINER, container_id, KIND_VOLUME, name),
        )
        if labels is not None and LABEL_ANONYMOUS in msgspec.json.decode(labels):
            _mark_removing(db, name)
