# SPDX-License-Identifier: Apache-2.0
"""A ttrpc client on asyncio: any number of calls at a time over one connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from wharfie.errdefs import InvalidArgument, Unavailable
from wharfie.rpc.frames import REQUEST, RESPONSE, FrameReader, encode_frame
from wharfie.rpc.status import from_status
from wharfie.spec.pb.ttrpc import KeyValue, Request, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from wharfie.spec.pb.codec import Message

    M = TypeVar("M", bound=Message)


class Client(asyncio.Protocol):
    """Make one with `await connect(sock)`. `lost` is done when the connection has ended."""

    def __init__(self, namespace: str = "") -> None:
        self._metadata = [KeyValue(key="containerd-namespace-ttrpc", value=namespace)] if namespace else []
        self._reader = FrameReader()
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._next = 1
        self._transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for stream, kind, payload in self._reader.feed(data):
                call = self._calls.pop(stream, None)
                if kind == RESPONSE and call is not None and not call.done():
                    response = Response.decode(payload)
                    if response.status is not None and response.status.code:
                        call.set_exception(from_status(response.status))
                    else:
                        call.set_result(response.payload)
        except InvalidArgument:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(None)
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if not call.done():
                call.set_exception(Unavailable("call shim: it has closed the connection"))

    async def call(
        self, service: str, method: str, request: Message, answer: type[M], *, timeout_s: float | None = None
    ) -> M:
        """Raises what the server raised; Unavailable where the connection ends first; TimeoutError."""
        if self._transport is None:
            raise Unavailable(f"call {method}: the connection to the shim is closed")
        stream, self._next = self._next, self._next + 2
        call: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[stream] = call
        message = Request(
            service=service,
            method=method,
            payload=request.encode(),
            timeout_nano=int((timeout_s or 0) * 1e9),
            metadata=self._metadata,
        )
        try:
            self._transport.write(encode_frame(stream, REQUEST, message.encode()))
            async with asyncio.timeout(timeout_s):
                return answer.decode(await call)
        finally:
            self._calls.pop(stream, None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def connect(sock: socket.socket, namespace: str = "") -> Client:
    """A client over a connected socket, which it owns from here on."""
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        _, client = await loop.create_connection(lambda: Client(namespace), sock=sock)
    except BaseException:
        with contextlib.suppress(OSError):
            sock.close()
        raise
    return client
