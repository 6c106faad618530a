# SPDX-License-Identifier: Apache-2.0
"""Where foreign shims publish: containerd's ttrpc events service. They refuse to start when nobody listens.

What they say is acknowledged and let go: Wait and State tell the same, and cannot be missed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys

from wharfie.rpc.server import Call, Connection, peer_uid
from wharfie.spec.pb.base import Empty


class EventsServer:
    """Listens at `path` on the running asyncio loop."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._listener: socket.socket | None = None
        self._connections: set[Connection] = set()

    def open(self) -> None:
        """Idempotent; takes over the name from a former daemon."""
        if sys.platform == "win32":
            raise NotImplementedError
        if self._listener is not None:
            return
        temporary = f"{self._path}.new"
        sock = socket.socket(socket.AF_UNIX)
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        sock.bind(temporary)
        os.chmod(temporary, 0o600)
        sock.listen(64)
        sock.setblocking(False)
        os.rename(temporary, self._path)
        self._listener = sock
        asyncio.get_running_loop().add_reader(sock, self._accept)

    def _accept(self) -> None:
        if sys.platform == "win32":
            raise NotImplementedError
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        if peer_uid(sock) != os.geteuid():
            sock.close()
            return
        connection = Connection(sock, _acknowledge, self._changed)
        self._connections.add(connection)
        asyncio.get_running_loop().add_reader(sock, connection.readable)

    def _changed(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        if connection.closed:
            loop.remove_reader(connection.sock)
            loop.remove_writer(connection.sock)
            self._connections.discard(connection)
        elif connection.wants_write:
            loop.add_writer(connection.sock, connection.writable)
        else:
            loop.remove_writer(connection.sock)

    def close(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for connection in tuple(self._connections):
            connection.close()


def _acknowledge(call: Call) -> None:
    call.reply(Empty())
