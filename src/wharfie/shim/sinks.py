# SPDX-License-Identifier: Apache-2.0
"""Those who get a process's output. `feed` gives a sink a chunk; it never blocks and never throws."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import sys
import time

assert sys.platform == "linux"  # type checkers of other platforms look no further

import fcntl
import termios

from wharfie.logs import CAUGHT_UP, DONE, Selection
from wharfie.shim.detach import DetachKeys
from wharfie.shim.loop import ERR, HUP, IN, OUT, RDHUP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.logs import Copier, Request
    from wharfie.shim.loop import Loop
    from wharfie.shim.streams import Streams
    from wharfie.tasks import AttachRequest

_FRAME = struct.Struct(">BxxxI")
HIGH_WATER = 1 << 20
STALL_S = 30.0
LINGER_S = 0.2
_STEPS = 8


class Sink:
    """Raw bytes of some streams into one descriptor, which it owns. A full descriptor holds the container up."""

    def __init__(self, streams: Streams, fd: int, wanted: frozenset[int]) -> None:
        self.streams, self.fd, self.wanted = streams, fd, wanted
        self.loop: Loop = streams.loop
        self.pending: list[bytes] = []
        self.pending_bytes = 0
        self.finishing = self.closed = False
        os.set_blocking(fd, False)

    @property
    def blocked(self) -> bool:
        return self.pending_bytes > HIGH_WATER

    def feed(self, stream: int, data: memoryview) -> None:
        if stream in self.wanted and not self.closed:
            self.send([data], len(data))

    def send(self, parts: list[bytes | memoryview], size: int) -> None:
        """Write what goes, keep the rest."""
        sent = 0
        if not self.pending:
            try:
                sent = os.writev(self.fd, parts)
            except BlockingIOError:
                pass
            except OSError as e:
                self.failed(e)
                return
        if sent < size:
            self.pending.append(b"".join(parts)[sent:])
            self.pending_bytes += size - sent
            self.rewatch()

    def flush(self) -> bool:
        """Write what is pending; True when all of it is gone."""
        try:
            while self.pending:
                sent = os.writev(self.fd, self.pending[:64])
                self.pending_bytes -= sent
                while self.pending and sent >= len(self.pending[0]):
                    sent -= len(self.pending.pop(0))
                if sent:
                    self.pending[0] = self.pending[0][sent:]
        except BlockingIOError:
            return False
        except OSError as e:
            self.failed(e)
            return False
        return True

    def rewatch(self) -> None:
        if not self.closed:
            try:
                self.loop.watch(self.fd, OUT if self.pending else 0, self.event)
            except PermissionError:  # a regular file is always ready and cannot be watched
                self.flush()

    def event(self, events: int) -> None:
        if events & OUT and self.flush():
            self.rewatch()
            self.streams.unblocked()
            if self.finishing:
                self.close()
        elif events & ERR:
            self.close()

    def failed(self, error: OSError) -> None:
        """The other end is gone (EPIPE, ECONNRESET), or the disk is full: this sink gets no more."""
        self.close()

    def finish(self) -> None:
        """No more output will come: close once everything is out."""
        self.finishing = True
        if not self.pending:
            self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.pending.clear()
            self.pending_bytes = 0
            self.loop.forget(self.fd)
            os.close(self.fd)
            self.streams.gone(self)


class ClientSink(Sink):
    """A client's socket. With a log that can be read back, a client that lags is served from it (`copier`)."""

    def __init__(
        self, streams: Streams, fd: int, wanted: frozenset[int], *, multiplexed: bool, copier: Copier | None = None
    ) -> None:
        super().__init__(streams, fd, wanted)
        self.multiplexed, self.copier = multiplexed, copier
        self._stall_mark = -1

    def start(self) -> None:
        self.rewatch()

    def feed(self, stream: int, data: memoryview) -> None:
        if self.closed or self.copier is not None or stream not in self.wanted:
            return
        size = len(data)
        if self.multiplexed:
            self.send([_FRAME.pack(stream, size), data], size + _FRAME.size)
        else:
            self.send([data], size)
        if self.pending:
            self.lag()

    def lag(self) -> None:
        """From here on the log is read, or the container waits."""
        log = self.streams.log
        request = Selection(stdout=1 in self.wanted, stderr=2 in self.wanted, multiplexed=self.multiplexed)
        self.copier = log.copier(request, live=True) if log is not None else None
        if self.copier is None and self.blocked and self._stall_mark < 0:
            self._stall_mark = self.pending_bytes
            self.loop.call_later(STALL_S, self._check_stall)

    def _check_stall(self) -> None:
        mark, self._stall_mark = self._stall_mark, -1
        if not self.closed and self.pending_bytes:
            if self.pending_bytes >= mark:
                self.close()
                self.streams.unblocked()
            else:
                self._stall_mark = self.pending_bytes
                self.loop.call_later(STALL_S, self._check_stall)

    def interest(self) -> int:
        return OUT if self.pending or self.copier is not None else 0

    def rewatch(self) -> None:
        if not self.closed:
            self.loop.watch(self.fd, self.interest(), self.event)

    def event(self, events: int) -> None:
        if events & OUT:
            self.pump()
        if not self.closed and events & (HUP | ERR):
            self.close()
            self.streams.unblocked()

    def pump(self) -> None:
        if not self.flush() or self.closed:
            return
        if self.copier is not None:
            try:
                self.pump_log(self.copier)
            except OSError as e:
                self.failed(e)
        if self.closed:
            return
        if self.finishing and self.copier is None:
            self.close()
            return
        self.rewatch()
        self.streams.unblocked()

    def pump_log(self, copier: Copier) -> None:
        for _ in range(_STEPS):
            said = copier.step(self.fd)
            if said in {CAUGHT_UP, DONE}:
                copier.close()
                self.copier = None
                return

    def finish(self) -> None:
        self.finishing = True
        if not self.pending and self.copier is None:
            self.close()

    def close(self) -> None:
        if self.copier is not None:
            self.copier.close()
            self.copier = None
        super().close()


class FollowSink(ClientSink):
    """A `logs -f`: it reads the log to its end, again and again, and ends with the process or at `until`."""

    def __init__(self, streams: Streams, fd: int, copier: Copier, request: Request) -> None:
        super().__init__(streams, fd, frozenset((1, 2)), multiplexed=request.multiplexed)
        self._log = copier
        self._idle = False

    def start(self) -> None:
        self.pump()

    def feed(self, stream: int, data: memoryview) -> None:
        if self._idle and not self.closed:
            self._idle = False
            self.rewatch()

    def interest(self) -> int:
        return 0 if self._idle else OUT

    def pump(self) -> None:
        try:
            for _ in range(_STEPS):
                said = self._log.step(self.fd)
                if said == DONE or (said == CAUGHT_UP and self.finishing):
                    self.close()
                    return
                if said == CAUGHT_UP:
                    self._idle = True
                    break
        except OSError as e:
            self.failed(e)
            return
        self.rewatch()

    def finish(self) -> None:
        self.finishing = True
        self._idle = False
        self.rewatch()

    def close(self) -> None:
        if not self.closed:
            self._log.close()
        super().close()


class AttachSink(ClientSink):
    """An attached client, perhaps with stdin."""

    def __init__(self, streams: Streams, request: AttachRequest, copier: Copier | None) -> None:
        wanted = frozenset(s for s, want in ((1, request.stdout), (2, request.stderr)) if want)
        super().__init__(streams, request.sock_fd, wanted, multiplexed=request.multiplexed, copier=copier)
        self._stdin = request.stdin
        self._keys = DetachKeys(request.detach_keys)
        self._head = request.head

    def start(self) -> None:
        if self._stdin and self._head:
            self._take(self._head)
        self._head = b""
        super().start()

    def interest(self) -> int:
        return super().interest() | (IN | RDHUP if self._stdin and self.streams.stdin_room() else 0)

    def event(self, events: int) -> None:
        if events & (IN | RDHUP) and self._stdin:
            self._read()
        if not self.closed:
            super().event(events if not self._stdin else events & ~HUP)

    def _read(self) -> None:
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return
        except OSError as e:
            if e.errno not in (errno.ECONNRESET, errno.EPIPE):
                raise
            data = b""
        if data:
            self._take(data)
        else:
            self._stdin = False
            self.streams.stdin_ended()
        if not self.closed:
            self.rewatch()

    def _take(self, data: bytes) -> None:
        forward, detached = self._keys.scan(data)
        if forward:
            self.streams.write_stdin(forward)
        if detached:
            self._stdin = False
            self.close()

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(OSError):
                self.flush()
                self._let_go()
        super().close()

    def _let_go(self) -> None:
        """A socket closed over bytes that nobody read is reset, and the client's last read fails instead of ending.

        So where a client has sent more stdin than the container took, tell it the end and read on until it is gone,
        for LINGER_S at most: clients leave at once when they see the end.
        """
        unread = fcntl.ioctl(self.fd, termios.FIONREAD, b"\0\0\0\0")
        if unread == b"\0\0\0\0":
            return
        with socket.socket(fileno=os.dup(self.fd)) as client:
            client.shutdown(socket.SHUT_WR)
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        deadline = time.monotonic() + LINGER_S
        while (left := deadline - time.monotonic()) > 0 and poller.poll(left * 1000):
            if not os.read(self.fd, 1 << 16):
                return
