# SPDX-License-Identifier: Apache-2.0
"""One connection of a ttrpc server, driven by a loop that belongs to somebody else. Nothing here blocks."""

from __future__ import annotations

import socket
import struct
import sys

from wharfie import errdefs
from wharfie.rpc.frames import REQUEST, RESPONSE, FrameReader, encode_frame
from wharfie.rpc.status import to_status
from wharfie.spec.pb.ttrpc import Request, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wharfie.spec.pb.codec import Message

_MAX_UNSENT = 16 << 20


class Call:
    """A request on its way; answer it once, now or later, by `reply` or `fail`."""

    __slots__ = ("connection", "metadata", "method", "payload", "service", "stream")

    def __init__(self, connection: Connection, stream: int, request: Request) -> None:
        self.connection, self.stream = connection, stream
        self.service, self.method, self.payload = request.service, request.method, request.payload
        self.metadata = {pair.key: pair.value for pair in request.metadata}

    def reply(self, message: Message) -> None:
        self.connection.send(self.stream, Response(payload=message.encode()))

    def fail(self, error: BaseException) -> None:
        self.connection.send(self.stream, Response(status=to_status(error)))


class Connection:
    """`wants_write` tells the loop whether to watch for room; `closed` whether to forget the connection.

    `changed` is called when either turns over.
    """

    def __init__(
        self, sock: socket.socket, handle: Callable[[Call], None], changed: Callable[[Connection], None]
    ) -> None:
        sock.setblocking(False)
        self.sock, self.closed = sock, False
        self._handle, self._changed = handle, changed
        self._reader, self._out = FrameReader(), bytearray()

    @property
    def wants_write(self) -> bool:
        return bool(self._out)

    def readable(self) -> None:
        """Take what has come and handle the calls in it."""
        try:
            data = self.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            for stream, kind, payload in self._reader.feed(data):
                if kind == REQUEST:
                    self._handle(Call(self, stream, Request.decode(payload)))
        except errdefs.InvalidArgument:  # a peer that speaks something else: there is no stream to answer on
            self.close()

    def send(self, stream: int, response: Response) -> None:
        if self.closed:
            return
        had = bool(self._out)
        self._out += encode_frame(stream, RESPONSE, response.encode())
        self.writable(notify=False)
        if len(self._out) > _MAX_UNSENT:  # asks and never reads
            self.close()
        elif bool(self._out) != had:
            self._changed(self)

    def writable(self, *, notify: bool = True) -> None:
        had = bool(self._out)
        try:
            while self._out:
                del self._out[: self.sock.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if notify and had != bool(self._out):
            self._changed(self)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._changed(self)
            self.sock.close()


def peer_uid(sock: socket.socket) -> int:
    """User at the other end of a unix socket."""
    if sys.platform == "win32":
        raise NotImplementedError
    return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
