# SPDX-License-Identifier: Apache-2.0
"""When garbage is collected: after images, containers or leases went, a moment later, once for many."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from wharfie.events import Envelope
from wharfie.metadata import gc
from wharfie.metadata.leases import drop_interrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from wharfie.daemon.state import Engine

_log = logging.getLogger(__name__)

_TOPICS = frozenset({"/images/delete", "/images/update", "/wharfie/image/untag", "/wharfie/image/delete"})
SETTLE_S = 0.5


class Collector:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wanted = asyncio.Event()
        self._running = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._cancel: Callable[[], None] | None = None

    async def open(self) -> None:
        """Drop what a former process held, finish what it left half done, and listen."""
        engine = self._engine
        gone = await engine.background(drop_interrupted, engine.db, time.time())
        await engine.background(gc.drop_dead_ingests, engine.content)
        self._cancel = engine.events.subscribe(self._heard)
        if engine.config.gc:
            self._task = engine.spawn(self._loop(), "garbage-collector")
            if gone:
                self._wanted.set()

    async def close(self) -> None:
        if self._cancel is not None:
            self._cancel()
        if self._task is not None:
            self._task.cancel()

    def _heard(self, envelope: Envelope) -> None:
        if envelope.topic in _TOPICS:
            self._engine.loop.call_soon_threadsafe(self._wanted.set)

    def request(self) -> None:
        """Collect soon. From the event loop."""
        self._wanted.set()

    async def _loop(self) -> None:
        while True:
            await self._wanted.wait()
            await asyncio.sleep(SETTLE_S)
            self._wanted.clear()
            try:
                await self.collect()
            except Exception:
                _log.exception("collect garbage")

    async def collect(self) -> gc.Collected:
        """Collect now."""
        engine = self._engine
        async with self._running:
            begin = time.monotonic()
            done = await engine.background(gc.collect, engine.db, engine.content, list(engine.snapshotters.values()))
            with contextlib.suppress(OSError):
                for snapshotter in engine.snapshotters.values():
                    await engine.background(snapshotter.cleanup)
        if any(done):
            _log.info(
                "collected blobs=%d snapshots=%d layers=%d freed_bytes=%d duration_s=%.3f",
                *done,
                time.monotonic() - begin,
            )
        return done
