# SPDX-License-Identifier: Apache-2.0
"""Taking a connection out of the HTTP server, to be handed to a shim (decisions 2).

`protocol.Connection` has kept what the client sent behind its request. We stop reading, take that, write the answer's
head ourselves and duplicate the descriptor; the transport is then closed by the server as after any answer, which for
our copy means nothing.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from aiohttp import web

from wharfie.daemon.protocol import Connection
from wharfie.errdefs import Unsupported

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"


class Taken(NamedTuple):
    """`fd` is the caller's. `head`: bytes that the client sent already."""

    fd: int
    head: bytes


class Hijacked(web.StreamResponse):
    """What a handler returns once the connection is no longer the server's: writes nothing, ends the connection."""

    def __init__(self) -> None:
        super().__init__(status=200)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> Any:
        return None

    async def write_eof(self, data: Any = b"") -> None:
        return None


def wants_upgrade(request: web.BaseRequest) -> bool:
    return request.headers.get("Upgrade", "").lower() == "tcp"


def take(request: web.BaseRequest, content_type: str, headers: dict[str, str]) -> Taken:
    """Answer 101 (or 200 where the client asked for no upgrade) and take the socket. Return `Hijacked()` afterwards.

    Raises Unsupported on a connection that has no socket of its own (TLS).
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    sock = transport.get_extra_info("socket")
    if sock is None or transport.get_extra_info("sslcontext") is not None:
        raise Unsupported("attach: this connection cannot be handed over")
    protocol = request.protocol
    upgrade = wants_upgrade(request)
    head = b""
    if not transport.is_closing():
        transport.pause_reading()
    if upgrade and isinstance(protocol, Connection) and protocol.behind:
        head, protocol.behind = protocol.behind, b""
    lines = ["HTTP/1.1 101 UPGRADED"] if upgrade else ["HTTP/1.1 200 OK"]
    lines.append(f"Content-Type: {content_type}")
    lines += ["Connection: Upgrade", "Upgrade: tcp"] if upgrade else ["Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    transport.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    return Taken(os.dup(sock.fileno()), head)
