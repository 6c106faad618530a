# SPDX-License-Identifier: Apache-2.0
"""cp and export from the daemon's side: which container, how its files are reached, and the bytes through pipes.

The work is `archive_worker`'s, in a process of its own. A stopped container cannot start meanwhile (its lock is held): the
same upper directory must not be mounted twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from wharfie.daemon.services.container import Container
from wharfie.daemon.state import Engine
from wharfie.errdefs import Conflict, NotFound, WharfieError
from wharfie.mount import Mount

PIPE_BYTES = 1 << 20
_log = logging.getLogger("wharfie.daemon.archive")


class ByteSource(Protocol):
    """A request's body."""

    def iter_any(self) -> AsyncIterator[bytes]: ...


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
        if container.state.alive and container.state.pid:
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


async def _from_worker(engine: Engine, entry: str, args: bytes, fds: list[int]) -> AsyncIterator[bytes]:
    """Run a worker that writes to its last descriptor; what it writes, then its error if it has one."""
    reader_fd, writer_fd = _pipe()
    reader = asyncio.StreamReader(limit=PIPE_BYTES)
    try:
        transport, _ = await engine.loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reader_fd, "rb", buffering=0)
        )
    except BaseException:
        os.close(writer_fd)
        raise
    work = asyncio.ensure_future(engine.tasks.worker(entry, args, [*fds, writer_fd]))
    work.add_done_callback(lambda _: os.close(writer_fd))  # ends the pipe: the worker's own end is closed by then
    try:
        while chunk := await reader.read(PIPE_BYTES):
            yield chunk
        skipped = await work
        for line in msgspec.json.decode(skipped or b"[]", type=list[str]):
            _log.warning("%s: left out %s", entry, line)
    finally:
        transport.close()
        if not work.done():
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError, WharfieError):
                await work


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(PermissionError):  # the user's quota of pipe pages is used up: a small one works too
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reader, writer


async def get(engine: Engine, container: Container, path: str) -> AsyncIterator[bytes]:
    """First the stat header's value, then the tar. Raises NotFound before the first."""
    async with _reachable(engine, container) as (where, fds):
        args = msgspec.json.encode({"where": where, "path": path})
        head, begun = b"", False
        stream = _from_worker(engine, "archive-get", args, fds)
        async with contextlib.aclosing(stream):
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
        stream = _from_worker(engine, "archive-export", msgspec.json.encode({"where": where}), fds)
        async with contextlib.aclosing(stream):
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
        reader_fd, writer_fd = _pipe()
        work = asyncio.ensure_future(engine.tasks.worker("archive-put", args, [*fds, reader_fd]))
        work.add_done_callback(lambda _: os.close(reader_fd))
        feeding = asyncio.ensure_future(_feed(engine, body, writer_fd))
        try:
            await asyncio.wait({work, feeding}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                feeding.cancel()
            else:
                await feeding
            await work
        finally:
            feeding.cancel()
            work.cancel()
            await asyncio.gather(feeding, work, return_exceptions=True)
            engine.containers.touch_files(container.ns, container.id)


async def _feed(engine: Engine, body: ByteSource, writer_fd: int) -> None:
    """The body into the pipe; ends early, without an error, when nobody reads any more."""
    transport, protocol = await engine.loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), os.fdopen(writer_fd, "wb", buffering=0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, engine.loop)
    try:
        async for chunk in body.iter_any():
            writer.write(chunk)
            await writer.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the worker says why
    finally:
        writer.close()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, asyncio.CancelledError):
            await writer.wait_closed()
