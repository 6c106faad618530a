# SPDX-License-Identifier: Apache-2.0
"""A ttrpc client for programs without a loop: one call at a time."""

from __future__ import annotations

import socket

from wharfie.errdefs import Unavailable
from wharfie.rpc.frames import REQUEST, RESPONSE, FrameReader, encode_frame
from wharfie.rpc.status import from_status
from wharfie.spec.pb.ttrpc import Request, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from wharfie.spec.pb.codec import Message

    M = TypeVar("M", bound=Message)


class BlockingClient:
    """Takes over a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._reader, self._next = sock, FrameReader(), 1

    def call(self, service: str, method: str, request: Message, answer: type[M]) -> M:
        """Raises what the server raised, or Unavailable."""
        stream, self._next = self._next, self._next + 2
        message = Request(service=service, method=method, payload=request.encode())
        try:
            self._sock.sendall(encode_frame(stream, REQUEST, message.encode()))
            while data := self._sock.recv(1 << 16):
                for got, kind, payload in self._reader.feed(data):
                    if kind == RESPONSE and got == stream:
                        response = Response.decode(payload)
                        if response.status is not None and response.status.code:
                            raise from_status(response.status)
                        return answer.decode(response.payload)
        except OSError as e:
            raise Unavailable(f"call {service}/{method}: {e}") from e
        raise Unavailable(f"call {service}/{method}: the server closed the connection")

    def close(self) -> None:
        self._sock.close()
