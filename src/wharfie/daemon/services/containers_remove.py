# SPDX-License-Identifier: Apache-2.0
"""Taking a container away: task, record, volumes, bundle, snapshot; and all stopped ones at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from wharfie.daemon.services import bundle
from wharfie.daemon.services import containers_records as records
from wharfie.daemon.services.container import WAIT_NEXT_EXIT, WAIT_NOT_RUNNING, WAIT_REMOVED, Container
from wharfie.errdefs import Conflict, NotFound, WharfieError
from wharfie.metadata import containers as rows

if TYPE_CHECKING:
    import sqlite3

    from wharfie.daemon.services.containers import Containers

_log = logging.getLogger(__name__)


async def remove(cs: Containers, container: Container, *, force: bool, volumes: bool) -> None:
    """Raises Conflict (running or paused, without force; being removed already)."""
    state = container.state
    if container.gone:
        raise Conflict(f"removal of container {container.name} is already in progress")
    if not force:
        if state.status == records.PAUSED:
            raise Conflict(
                f"cannot remove container {container.name!r}: container is paused and must be unpaused first",
                hint="or remove it with --force",
            )
        if state.alive or state.status == records.RESTARTING:
            raise Conflict(
                f"cannot remove container {container.name!r}: container is {state.status}: stop the container before"
                " removing or force remove",
                hint="or remove it with --force",
            )
    container.replacing = True  # the exit that follows is ours: no policy has a say in it
    try:
        if state.alive or state.status == records.RESTARTING:
            try:
                await cs.run.kill(container, "KILL")
            except Conflict:
                pass  # it ended by itself in this moment
        async with container.lock:
            if container.gone:
                raise Conflict(f"removal of container {container.name} is already in progress")
            if state.alive:
                raise Conflict(f"cannot remove container {container.name!r}: it could not be killed")
            container.gone = True
            if container.restart_timer is not None:
                container.restart_timer.cancel()
            try:
                await _remove(cs, container, volumes=volumes)
            except BaseException:
                container.gone = False  # what is left of it can be removed again
                raise
    finally:
        container.replacing = False


async def _remove(cs: Containers, container: Container, *, volumes: bool) -> None:
    """The record goes first: what is left after a kill belongs to nobody, and the next start removes it."""
    engine, begin = cs.engine, time.monotonic()
    has_volumes = any(kind == "volume" for kind, *_ in container.summary.mounts)
    cs.parking.drop(container)

    last: list[bool] = []

    def delete(db: sqlite3.Connection) -> None:
        if has_volumes:
            engine.volumes.release_in(db, container.ns, container.id, remove_anonymous=volumes)
        last.append(rows.sole_user(db, container.ns, container.id))
        rows.delete(db, container.ns, container.id)

    await gather_all(
        engine.committed(engine.db.submit(delete)),
        engine.files(bundle.remove, engine.config.bundle(container.ns, container.id)),
        engine.files(remove_snapshot, cs, container),
    )
    if has_volumes:
        await engine.volumes.sweep()
    if any(last):
        engine.collector.request()
    _log.debug("removed container_id=%s duration_s=%.4f", container.short, time.monotonic() - begin)
    engine.execs.forget_container(container)
    cs.ids.release(container.id)
    cs.forget(container)
    cs.publish(container, "/containers/delete", {"id": container.id})
    exit_ = container.exit
    for condition in (WAIT_REMOVED, WAIT_NEXT_EXIT, WAIT_NOT_RUNNING):
        container.wake(condition, exit_)


def remove_snapshot(cs: Containers, container: Container) -> None:
    """Blocking. One that is gone already is fine."""
    with contextlib.suppress(NotFound):
        cs.snapshotter_of(container).remove(container.snapshot_key)


async def gather_all(*awaitables: Awaitable[Any]) -> None:
    """All of them to their end, then the first failure."""
    for result in await asyncio.gather(*awaitables, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def prune(cs: Containers, ns: str, accept: Callable[[Container], bool]) -> tuple[list[str], int]:
    """Remove all stopped containers that `accept` takes: their ids, and the bytes that came free."""
    removed: list[str] = []
    freed = 0
    for container in cs.all(ns):
        if container.state.status not in {records.CREATED, records.EXITED, records.DEAD} or container.starting:
            continue
        if not accept(container):
            continue
        try:
            snapshotter = cs.snapshotter_of(container)
            size = (await cs.engine.background(snapshotter.usage, container.snapshot_key)).size_bytes
        except WharfieError as e:
            _log.debug("container %s: its size: %s", container.short, e)
            size = 0
        try:
            await remove(cs, container, force=False, volumes=False)
        except (Conflict, NotFound):
            continue  # started or removed in the meantime
        removed.append(container.id)
        freed += size
    return removed, freed
