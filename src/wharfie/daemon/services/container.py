# SPDX-License-Identifier: Apache-2.0
"""One container in the daemon's memory: its stored documents, its state, its task and whoever waits for it.

The document is kept as JSON and decoded when asked for: a thousand stopped containers cost a few megabytes. `lock`
orders the steps that change state (start, exit, remove, update); signals and reads take no lock.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from wharfie.daemon.services import containers_records as records
from wharfie.daemon.services.containers_records import Document, State

if TYPE_CHECKING:
    from wharfie.daemon.services.attach import ParkedAttach
    from wharfie.daemon.services.exec import ExecSession
    from wharfie.daemon.services.health import HealthMonitor
    from wharfie.mount import Mount
    from wharfie.tasks import Task

WAIT_NOT_RUNNING, WAIT_NEXT_EXIT, WAIT_REMOVED = "not-running", "next-exit", "removed"


class Summary(NamedTuple):
    """What lists and filters need, so that they decode no document. `mounts`: (type, name, source, target, mode, rw)."""

    image: str
    image_id: str
    image_name: str
    command: str
    labels: dict[str, str]
    network: str
    mounts: tuple[tuple[str, str, str, str, bool], ...]
    auto_remove: bool
    ports: tuple[str, ...]
    platform: str
    has_health: bool


def summarize(document: Document) -> Summary:
    config, host = document.config, document.host_config
    words = [document.path, *(f"'{a}'" if " " in a else a for a in document.args)]  # as docker's `ps` shows them
    return Summary(
        image=config.image,
        image_id=document.image_id,
        image_name=document.image_name,
        command=" ".join(words),
        labels=config.labels or {},
        network=host.network_mode,
        mounts=tuple(
            (m.request.type, m.name, m.source, m.request.target, not m.request.readonly) for m in document.mounts
        ),
        auto_remove=host.auto_remove,
        ports=tuple(config.exposed_ports or ()),
        platform=document.platform,
        has_health=bool(config.healthcheck and config.healthcheck.test and config.healthcheck.test[0] != "NONE"),
    )


class Exit(NamedTuple):
    """How a run ended, for those who wait. `error`: text for people."""

    code: int
    error: str = ""


class Container:
    __slots__ = (
        "_raw", "_waiters", "created_ns", "document_dirty_user", "execs", "exit_waiters", "gone", "health", "id",
        "lock", "name", "ns", "parked", "replacing", "restart_timer", "rootfs", "snapshot_key", "snapshotter", "starting", "state",
        "summary", "task", "userns_mode",
    )  # fmt: skip

    def __init__(
        self, ns: str, id_: str, name: str, document: Document, *, state: State, snapshotter: str, raw: bytes = b""
    ) -> None:
        self.ns, self.id, self.name = ns, id_, name
        self._raw = raw or records.encode(document)
        self.created_ns = document.created_ns
        self.summary = summarize(document)
        self.state = state
        self.snapshotter, self.snapshot_key = snapshotter, id_
        self.userns_mode = document.userns.mode
        self.lock = asyncio.Lock()
        self.task: Task | None = None
        self.rootfs: list[Mount] | None = None
        """Mounts that `prepare` gave, until the first start takes them."""
        self.parked: list[ParkedAttach] = []
        self.execs: dict[str, ExecSession] = {}
        self.health: HealthMonitor | None = None
        self.restart_timer: asyncio.Task[None] | None = None
        self.starting = False
        self.replacing = False
        """A restart by request is under way: the exit in its middle neither removes nor starts again."""
        self.gone = False
        """Removal has begun: nothing else may."""
        self.document_dirty_user = False
        """Files were put into it from outside: the user has to be looked up again at the next start."""
        self._waiters: dict[str, list[asyncio.Future[Exit]]] = {}

    def document(self) -> Document:
        """A fresh copy."""
        return records.decode_document(self._raw)

    def set_document(self, document: Document) -> bytes:
        """Replace it in memory; the JSON to store comes back."""
        self._raw = records.encode(document)
        self.summary = summarize(document)
        self.userns_mode = document.userns.mode
        return self._raw

    def waiter(self, condition: str) -> asyncio.Future[Exit]:
        """A future for the next time `condition` comes true."""
        future: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        waiting = self._waiters.setdefault(condition, [])
        waiting.append(future)
        future.add_done_callback(lambda f: waiting.remove(f) if f in waiting else None)
        return future

    def wake(self, condition: str, exit_: Exit) -> None:
        for future in list(self._waiters.get(condition, ())):
            if not future.done():
                future.set_result(exit_)

    @property
    def exit(self) -> Exit:
        return Exit(self.state.exit_code, self.state.error)

    @property
    def short(self) -> str:
        return self.id[:12]
