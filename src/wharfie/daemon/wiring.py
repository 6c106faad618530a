# SPDX-License-Identifier: Apache-2.0
"""Putting the engine together from the table in `builtins`, and taking it apart in reverse."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from wharfie.content.local import open_store
from wharfie.daemon import builtins
from wharfie.daemon.api.router import Router
from wharfie.daemon.config import Config, cgroup_driver
from wharfie.daemon.main import pools
from wharfie.daemon.services import runtimes
from wharfie.daemon.state import Engine, Pools
from wharfie.events.exchange import Exchange
from wharfie.linux import cgroupfs
from wharfie.metadata.store import Store
from wharfie.oci import facts
from wharfie.snapshots import ladder
from wharfie.tasks.manager import Manager

_log = logging.getLogger("wharfie.daemon")


class Wiring:
    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.engine = Engine(config)
        self.engine.loop = loop
        self._closers: list[Callable[[], Awaitable[Any]]] = []

    async def open(self) -> Engine:
        """Raises what any part raises; `close` is then due all the same."""
        engine, config = self.engine, self.engine.config
        engine.started_s = time.time()
        engine.pools = Pools(*pools())
        self._closers.append(self._close_pools)
        engine.events = Exchange()
        engine.runtimes = runtimes.available(config.runtimes)
        host = facts.probe(frozenset(engine.runtimes))
        engine.host = host._replace(cgroup_driver=cgroup_driver(config, host))
        if config.cgroup_favor_moves and sys.platform == "linux":
            _log.info("cgroup moves favored: %s", cgroupfs.favor_moves())
        if engine.host.userns:
            _log.warning("containers share the host's user namespace: %s", engine.host.userns)
        engine.content = content = open_store(config.path("content"))
        content.cleanup()
        self._open_snapshotters()
        engine.db = Store(config.path("metadata.db"))
        for module in builtins.TABLES:
            component, migrations = builtins.load(f"{module}:TABLES")
            engine.db.register(component, migrations)
        engine.db.open()
        self._closers.append(self._close_db)
        engine.tasks = manager = Manager(config.root, config.state, died=self._shim_died)
        await manager.open()
        self._closers.append(manager.close)
        self._closers.append(engine.cancel_spawned)
        services = [(slot, builtins.load(target)(engine)) for slot, target in builtins.SERVICES]
        for slot, service in services:
            setattr(engine, slot, service)
        for slot, service in services:
            begin = time.monotonic()
            if hasattr(service, "open"):
                await service.open()
            if hasattr(service, "close"):
                self._closers.append(service.close)
            _log.debug("opened service=%s duration_s=%.3f", slot, time.monotonic() - begin)
        return engine

    def router(self) -> Router:
        routes = [route for module in builtins.ROUTES for route in builtins.load(f"{module}:ROUTES")]
        return Router(routes)

    async def close(self) -> None:
        """Everything in reverse; one part that fails does not keep the others open."""
        while self._closers:
            closer = self._closers.pop()
            try:
                await closer()
            except Exception:
                _log.exception("close %s", closer)

    def _open_snapshotters(self) -> None:
        engine, config = self.engine, self.engine.config
        wanted = None if config.snapshotter == "auto" else config.snapshotter
        chosen, probes = ladder.choose(config.root, config.state, wanted)
        engine.snapshotter, engine.snapshotter_probes = chosen, probes
        engine.snapshotters = {chosen.name: chosen}
        # The finished and half-finished work of a former process, whatever snapshotter did it.
        chosen.cleanup()

        async def close() -> None:
            for snapshotter in engine.snapshotters.values():
                await engine.files(snapshotter.close)

        self._closers.append(close)

    async def _shim_died(self, ns: str, container_id: str) -> None:
        await self.engine.containers.run.note_death(ns, container_id)

    async def _close_db(self) -> None:
        self.engine.db.close()

    async def _close_pools(self) -> None:
        for pool in self.engine.pools:
            pool.shutdown(wait=False, cancel_futures=True)
