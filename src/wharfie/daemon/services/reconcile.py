# SPDX-License-Identifier: Apache-2.0
"""What a start of the daemon finds: live shims are taken up again, what ended meanwhile is told, leftovers go.

The truth about a container comes from its shim and its exit record, never from the last write to the database
(decisions 3). Half-made containers (a record without a bundle, a bundle or snapshot without a record) are removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from typing import TYPE_CHECKING

from wharfie.daemon.services import bundle, restart
from wharfie.daemon.services import containers_records as records
from wharfie.daemon.services.container import Container
from wharfie.daemon.services.containers_run import SUPERVISOR_DIED, boot_id
from wharfie.errdefs import NotFound, WharfieError
from wharfie.metadata import containers as rows
from wharfie.tasks import Task, TaskExit

if TYPE_CHECKING:
    from wharfie.daemon.services.containers import Containers

_log = logging.getLogger(__name__)

REBOOTED = 255


async def reconcile(cs: Containers) -> None:
    """Fill the registry. Every container is in its true state when this returns."""
    engine = cs.engine
    found = await engine.files(lambda: rows.load_all(engine.db.reader()))
    half: list[rows.ContainerRow] = []
    containers: list[Container] = []
    for row in found:
        raw = row.extensions.get(rows.EXTENSION_DOCKER)
        if raw is None:
            continue  # another API's container
        if not bundle.exists(engine.config.bundle(row.ns, row.id)):
            half.append(row)
            continue
        try:
            document = records.decode_document(raw)
            state = records.decode_state(row.state)
        except ValueError as e:
            _log.error("container %s: its record cannot be read: %s", row.id[:12], e)
            continue
        container = Container(
            row.ns, row.id, row.name or row.id[:12], document, state=state, snapshotter=row.snapshotter, raw=raw
        )
        cs.ids.note(row.id, document.userns)
        cs.add(container)
        containers.append(container)
    for row in half:
        await _drop_half(cs, row)
    await engine.files(_sweep_strays, cs)
    ended = await asyncio.gather(*(_settle(cs, c) for c in containers))
    await engine.volumes.settle()
    for container, just_ended in zip(containers, ended, strict=True):
        if not container.gone and not container.state.alive and container.task is None:
            await _follow_policy(cs, container, just_ended)


async def _settle(cs: Containers, container: Container) -> bool:
    """Find out what became of one container; True if its run ended while no daemon was there."""
    engine, state = cs.engine, container.state
    directory = engine.config.bundle(container.ns, container.id)
    was_alive = state.alive
    shim = bundle.has_shim(engine.config, container.ns, container.id)
    record = bundle.read_exit(directory)
    if not was_alive and not shim and (record is None or state.started_once):
        waited = state.status == records.RESTARTING
        state.status = records.EXITED if waited else state.status
        return waited
    task: Task | None = None
    if shim or was_alive:
        try:
            task = await engine.tasks.recover(container.ns, container.id)
        except (WharfieError, OSError) as e:
            _log.error("container %s: take up its shim: %s", container.short, e)
    if task is not None and await _take_up(cs, container, task):
        return False
    if record is None:
        record = bundle.read_exit(directory)  # the shim may just have ended
    if record is not None:
        exit_, error = TaskExit(record.exit_status, record.exited_at_s, record.oom), record.error
    elif not was_alive:
        return False  # created, and the start was cut short before the program ran
    elif state.boot_id and state.boot_id != boot_id():
        exit_, error = TaskExit(REBOOTED, time.time()), "the host was restarted"
    else:
        exit_, error = TaskExit(SUPERVISOR_DIED, time.time()), "supervisor died"
    if not state.started_once:
        state.started_once, state.started_ns = True, int(os.stat(directory).st_mtime * 1e9)
    await cs.run.note_exit(container, exit_, error)
    return True


async def _take_up(cs: Containers, container: Container, task: Task) -> bool:
    """A shim is there: running containers go on, what has ended is released. False if it cannot be talked to."""
    state = container.state
    try:
        seen = await task.state()
    except (WharfieError, OSError) as e:
        _log.error("container %s: ask its shim: %s", container.short, e)
        return False
    if seen.status == "created":
        # The daemon died between create and start: nobody waits for it any more.
        with contextlib.suppress(WharfieError, OSError):
            await task.kill(9)
        with contextlib.suppress(WharfieError, OSError):
            await task.delete()
        if container.summary.auto_remove or not state.started_once:
            state.status = records.EXITED if state.started_once else records.CREATED
            state.pid = 0
        cs.save_state(container)
        return True
    container.task = task
    if seen.status == "stopped":
        if not state.started_once:
            state.started_once, state.started_ns = True, _started_ns(cs, container)
        state.status = records.RUNNING
        cs.run.supervise(container, task)
        return True
    if not state.started_once or state.pid != seen.pid or not state.alive:
        state.started_ns = _started_ns(cs, container, seen.pid)
        state.started_once, state.exit_code, state.error = True, 0, ""
    state.status = records.PAUSED if seen.status == "paused" else records.RUNNING
    state.pid, state.boot_id = seen.pid, boot_id()
    cs.save_state(container)
    if any(kind == "volume" for kind, *_ in container.summary.mounts):
        await cs.engine.volumes.activate(container.id)
    cs.run.supervise(container, task)
    if container.summary.has_health:
        from wharfie.daemon.services.health import HealthMonitor

        container.health = HealthMonitor(cs, container, container.document())
        container.health.start()
    return True


def _started_ns(cs: Containers, container: Container, pid: int = 0) -> int:
    """When the program started: from its process, else from the shim's directory."""
    try:
        if pid and sys.platform != "win32":
            with open(f"/proc/{pid}/stat", "rb") as f:
                ticks = int(f.read().rpartition(b")")[2].split()[19])
            with open("/proc/stat", "rb") as f:
                boot_s = next(int(line.split()[1]) for line in f if line.startswith(b"btime"))
            return int((boot_s + ticks / os.sysconf("SC_CLK_TCK")) * 1e9)
        return os.stat(cs.engine.config.run_path("shims", container.ns, container.id)).st_mtime_ns
    except (OSError, ValueError, StopIteration):
        return time.time_ns()


async def _follow_policy(cs: Containers, container: Container, just_ended: bool) -> None:
    state = container.state
    if container.summary.auto_remove:
        if state.status == records.CREATED:
            cs.parking.expect(container)
        else:
            with contextlib.suppress(WharfieError):
                await cs.remove(container, volumes=True)
        return
    policy = container.document().host_config.restart_policy
    if restart.at_daemon_start(policy, state, was_running=just_ended):
        cs.run.start_after_daemon(container)


async def _drop_half(cs: Containers, row: rows.ContainerRow) -> None:
    """A record without a bundle: its removal or creation was cut short."""
    _log.info("container %s: was half made or half removed: removed", row.id[:12])
    engine = cs.engine

    def delete(db: object) -> None:
        engine.volumes.release_in(db, row.ns, row.id, remove_anonymous=True)
        rows.delete(db, row.ns, row.id)  # type: ignore[arg-type]

    with contextlib.suppress(WharfieError, OSError):
        await engine.tasks.recover(row.ns, row.id)
    await engine.committed(engine.db.submit(delete))
    await engine.volumes.sweep()


def _sweep_strays(cs: Containers) -> None:
    """Bundles and active snapshots that no record names. Blocking."""
    engine = cs.engine
    known = {(c.ns, c.id) for c in cs.all()}
    base = engine.config.path("containers")
    for ns in os.listdir(base) if os.path.isdir(base) else ():
        for name in os.listdir(os.path.join(base, ns)):
            if (ns, name) not in known:
                bundle.remove(os.path.join(base, ns, name))
    ids = {c.id for c in cs.all()}
    for snapshotter in engine.snapshotters.values():
        for info in list(snapshotter.walk()):
            key = info.name
            if info.kind == "active" and len(key) == 64 and key not in ids and set(key) <= set("0123456789abcdef"):
                with contextlib.suppress(NotFound):
                    snapshotter.remove(key)
