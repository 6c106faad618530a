# SPDX-License-Identifier: Apache-2.0
"""cp and export from the daemon's side: which container, how its files are reached, and the bytes through pipes.

The work is `archive_worker`'s, in a process of its own. A stopped container cannot start meanwhile (its lock is held): the
same upper directory must not be mounted twice.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator

import msgspec

from wharfie.daemon.services.archive_pipes import ByteSource, aclosing, from_worker, into_worker
from wharfie.daemon.services.container import Container
from wharfie.daemon.state import Engine
from wharfie.errdefs import Conflict, NotFound
from wharfie.mount import Mount

_log = logging.getLogger("wharfie.daemon.archive")


def _where(engine: Engine, container: Container, *, rootfs_only: bool = False) -> dict[str, object]:
    """`archive_root.Where` of a container, as JSON. Blocking."""
    if container.state.alive and container.state.pid:
        return {"pid": container.state.pid, "rootfs_only": rootfs_only}
    document = container.document()
    volumes = [
        Mount("bind", m.source, m.request.target, ("rbind", "ro") if m.request.readonly else ("rbind",))
        for m in document.mounts
        if m.source and m.request.type in {"bind", "volume"}
    ]
    return {
        "mounts": engine.containers.mounts(container.ns, container.id),
        "volumes": [] if rootfs_only else volumes,
        "read_only": document.host_config.readonly_rootfs and not rootfs_only,
    }


@contextlib.asynccontextmanager
async def _reachable(
    engine: Engine, container: Container, *, rootfs_only: bool = False
) -> AsyncIterator[tuple[dict[str, object], list[int]]]:
    """(where, descriptors for the worker): a pidfd of a running container; a stopped one is kept from starting."""
    async with contextlib.AsyncExitStack() as stack:
        if not container.state.alive:
            await stack.enter_async_context(container.lock)
        if container.gone:
            raise NotFound(f"No such container: {container.id}")
        fds: list[int] = []
        if sys.platform != "win32" and container.state.alive and container.state.pid:
            try:
                fds.append(os.pidfd_open(container.state.pid))
            except ProcessLookupError:
                raise Conflict(f"reach the files of container {container.short}: it has just stopped") from None
            stack.callback(os.close, fds[0])
        where = await engine.files(lambda: _where(engine, container, rootfs_only=rootfs_only))
        yield where, fds


async def stat_path(engine: Engine, container: Container, path: str) -> str:
    """Value of the header X-Docker-Container-Path-Stat. Raises NotFound, InvalidArgument."""
    async with _reachable(engine, container) as (where, fds):
        answer = await engine.tasks.worker("archive-stat", msgspec.json.encode({"where": where, "path": path}), fds)
    return answer.decode()


def _log_skipped(entry: str, answer: bytes) -> None:
    for line in msgspec.json.decode(answer or b"[]", type=list[str]):
        _log.warning("%s: left out %s", entry, line)


async def get(engine: Engine, container: Container, path: str) -> AsyncIterator[bytes]:
    """First the stat header's value, then the tar. Raises NotFound before the first."""
    async with _reachable(engine, container) as (where, fds):
        args = msgspec.json.encode({"where": where, "path": path})
        head, begun = b"", False
        stream = from_worker(engine, "archive-get", args, fds, lambda answer: _log_skipped("copy", answer))
        async with aclosing(stream):
            async for chunk in stream:
                if begun:
                    yield chunk
                    continue
                head += chunk
                line, newline, rest = head.partition(b"\n")
                if newline:
                    begun = True
                    yield line
                    yield rest


async def export(engine: Engine, container: Container) -> AsyncIterator[bytes]:
    """The root file system as a tar."""
    async with _reachable(engine, container, rootfs_only=True) as (where, fds):
        args = msgspec.json.encode({"where": where})
        stream = from_worker(engine, "archive-export", args, fds, lambda answer: _log_skipped("export", answer))
        async with aclosing(stream):
            async for chunk in stream:
                yield chunk


async def put(
    engine: Engine,
    container: Container,
    path: str,
    body: ByteSource,
    *,
    copy_owner: bool = False,
    keep_kinds: bool = False,
) -> None:
    """Unpack the tar `body` at `path`. Raises NotFound, InvalidArgument, PermissionDenied (read-only), ResourceExhausted."""
    owner = None
    if copy_owner:
        user = container.document().user
        owner = (user.uid, user.gid)
    async with _reachable(engine, container) as (where, fds):
        args = msgspec.json.encode({"where": where, "path": path, "owner": owner, "keep_kinds": keep_kinds})
        try:
            await into_worker(engine, body, "archive-put", args, fds)
        finally:
            engine.containers.touch_files(container.ns, container.id)
