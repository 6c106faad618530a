# SPDX-License-Identifier: Apache-2.0
"""Bytes between requests and blocking code: always through a pipe, so that both sides go at their own pace.

`from_worker` and `from_thread` give what a process or a thread writes; `into_worker` and `into_thread` give it a
request's body to read. Whoever leaves early closes its end, and the other side ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

from wharfie.daemon.state import Engine
from wharfie.errdefs import Cancelled, Unsupported

T = TypeVar("T")

PIPE_BYTES = 1 << 20


class Readable(Protocol):
    def read(self, n: int = -1, /) -> bytes: ...


class ByteSource(Protocol):
    """A request's body."""

    def iter_any(self) -> AsyncIterator[bytes]: ...


def pipe() -> tuple[int, int]:
    """(reader, writer), large if the user's quota of pipe pages allows it."""
    if sys.platform == "win32":
        raise Unsupported("make a pipe: streams of archives are not on Windows yet")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(PermissionError):
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reader, writer


async def _chunks(
    engine: Engine, start: Callable[[int], Awaitable[T]], done: Callable[[T], object]
) -> AsyncIterator[bytes]:
    """What `start(writer)` writes, then its error if it has one. The writer is closed here once it is done."""
    reader_fd, writer_fd = pipe()
    reader = asyncio.StreamReader(limit=PIPE_BYTES)
    try:
        transport, _ = await engine.loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reader_fd, "rb", buffering=0)
        )
    except BaseException:
        os.close(writer_fd)
        raise
    work = asyncio.ensure_future(start(writer_fd))
    work.add_done_callback(lambda _: os.close(writer_fd))
    try:
        while chunk := await reader.read(PIPE_BYTES):
            yield chunk
        done(await work)
    finally:
        transport.close()
        if not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


def from_worker(
    engine: Engine, entry: str, args: bytes, fds: list[int], done: Callable[[bytes], object]
) -> AsyncIterator[bytes]:
    """What a worker writes to its last descriptor. `done` gets its result."""
    return _chunks(engine, lambda writer: engine.tasks.worker(entry, args, [*fds, writer]), done)


async def _in_thread(engine: Engine, work: Callable[[int], T], fd: int) -> T:
    """Run `work` on a descriptor of its own: a thread cannot be cancelled, so it may outlive the request."""
    own = [os.dup(fd)]
    try:
        return await engine.transfer(lambda: work(own.pop()))
    finally:
        with contextlib.suppress(IndexError):  # the thread has taken it
            os.close(own.pop())


def from_thread(engine: Engine, work: Callable[[Callable[[bytes], None]], None]) -> AsyncIterator[bytes]:
    """What `work(write)` writes, in the transfer pool."""

    def run(own_fd: int) -> None:
        def write(data: bytes) -> None:
            view = memoryview(data)
            while view:
                view = view[os.write(own_fd, view) :]

        try:
            work(write)
        except BrokenPipeError:
            return  # the reader has gone
        finally:
            os.close(own_fd)

    return _chunks(engine, lambda writer: _in_thread(engine, run, writer), lambda _: None)


class _Body(io.RawIOBase):
    """The reading end of a body's pipe. An end that is only the client's going away is an error, not an end."""

    def __init__(self, fd: int, cut: list[BaseException]) -> None:
        super().__init__()
        self._fd, self._cut = fd, cut

    def readable(self) -> bool:
        return True

    def read(self, n: int = -1, /) -> bytes:
        data = os.read(self._fd, n if n >= 0 else PIPE_BYTES)
        if not data and n and self._cut:
            raise Cancelled("read request: the client went away in the middle of it")
        return data

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


async def _feed(engine: Engine, body: ByteSource, writer_fd: int, cut: list[BaseException]) -> None:
    """The body into the pipe; ends early, without an error, when nobody reads any more.

    `cut` gets the reason, before the pipe ends, where the body is not whole.
    """
    transport, protocol = await engine.loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), os.fdopen(writer_fd, "wb", buffering=0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, engine.loop)
    try:
        async for chunk in body.iter_any():
            writer.write(chunk)
            await writer.drain()
    except BaseException as e:
        cut.append(e)
        if not isinstance(e, ConnectionError) or not transport.is_closing():
            raise  # the client has gone, not the reader
    finally:
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()


async def _fed(engine: Engine, body: ByteSource, start: Callable[[int], Awaitable[T]], cut: list[BaseException]) -> T:
    reader_fd, writer_fd = pipe()
    work = asyncio.ensure_future(start(reader_fd))
    work.add_done_callback(lambda _: os.close(reader_fd))
    feeding = asyncio.ensure_future(_feed(engine, body, writer_fd, cut))
    try:
        await asyncio.wait({work, feeding}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await feeding
        return await work
    finally:
        feeding.cancel()
        work.cancel()
        await asyncio.gather(feeding, work, return_exceptions=True)


async def into_worker(engine: Engine, body: ByteSource, entry: str, args: bytes, fds: list[int]) -> bytes:
    """Run a worker whose last descriptor gives the body."""
    return await _fed(engine, body, lambda reader: engine.tasks.worker(entry, args, [*fds, reader]), [])


async def into_thread(engine: Engine, body: ByteSource, work: Callable[[Readable], T]) -> T:
    """Run `work(stream)` in the transfer pool on the body. The stream raises Cancelled where the body is cut short."""
    cut: list[BaseException] = []

    def run(own_fd: int) -> T:
        with _Body(own_fd, cut) as stream:
            return work(stream)

    return await _fed(engine, body, lambda reader: _in_thread(engine, run, reader), cut)


def aclosing(chunks: AsyncIterator[bytes]) -> contextlib.aclosing[Any]:
    """`contextlib.aclosing` for what is declared as a plain iterator."""
    return contextlib.aclosing(chunks)
