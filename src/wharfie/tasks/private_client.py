# SPDX-License-Identifier: Apache-2.0
"""Daemon's end of a shim's private socket (protocol: `tasks.private`), on asyncio."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Sequence
from typing import Any

from wharfie.errdefs import Unavailable
from wharfie.rpc.status import from_document
from wharfie.tasks.private import MAX_MESSAGE

_SO_SNDBUFFORCE = 32


def grow_buffer(sock: socket.socket) -> None:
    """A SEQPACKET message must fit the sender's buffer; an exec's environment may be long."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * MAX_MESSAGE)
    except OSError:  # not root: what the system's limit allows
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_MESSAGE)


class PrivateClient:
    """Takes over a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        grow_buffer(sock)
        self._sock: socket.socket | None = sock
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._next = 0
        asyncio.get_running_loop().add_reader(sock, self._readable)

    async def call(self, document: dict[str, Any], fds: Sequence[int] = ()) -> Any:
        """Raises what the shim raised; Unavailable where it is gone. Descriptors stay the caller's."""
        if sys.platform == "win32":
            raise NotImplementedError
        if self._sock is None:
            raise Unavailable(f"call shim: {document['op']}: the connection is closed")
        self._next += 1
        seq = self._next
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[seq] = answer
        data = json.dumps({**document, "seq": seq}).encode()
        try:
            while True:
                try:
                    socket.send_fds(self._sock, [data], fds)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.002)
            return await answer
        except OSError as e:
            raise Unavailable(f"call shim: {document['op']}: {e.strerror}") from e
        finally:
            self._calls.pop(seq, None)

    def _readable(self) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        document = json.loads(data)
        answer = self._calls.get(document["seq"])
        if answer is not None and not answer.done():
            if "error" in document:
                answer.set_exception(from_document(document["error"]))
            else:
                answer.set_result(document.get("ok"))

    def close(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(Unavailable("call shim: it has closed the connection"))
