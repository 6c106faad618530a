# SPDX-License-Identifier: Apache-2.0
"""Publishing events: containerd's ttrpc events service, else its `publish` command. In order, never in the way."""

from __future__ import annotations

import os
import socket
import sys
import time

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie import log
from wharfie.rpc.frames import REQUEST, encode_frame
from wharfie.shim.loop import ERR, HUP, IN, OUT
from wharfie.spec.pb.base import Any, Timestamp
from wharfie.spec.pb.events import TOPICS, type_url
from wharfie.spec.pb.ttrpc import Envelope, ForwardRequest, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.shim.loop import Loop
    from wharfie.spec.pb.codec import Message

_KEEP = 1024
_RETRY_S = 2.0


class TtrpcPublisher:
    """Events wait here while nobody listens at `path`, the oldest going first when there are too many."""

    def __init__(self, loop: Loop, path: str, namespace: str) -> None:
        self._loop, self._path, self._namespace = loop, path, namespace
        self._frames: list[bytes] = []
        self._sent = 0
        self._stream = 1
        self._sock: socket.socket | None = None
        self._retrying = False

    def publish(self, event: Message) -> None:
        envelope = Envelope(
            timestamp=Timestamp.at(time.time_ns()),
            namespace=self._namespace,
            topic=TOPICS[type(event)],
            event=Any(type_url=type_url(event), value=event.encode()),
        )
        request = Request(
            service="containerd.services.events.ttrpc.v1.Events",
            method="Forward",
            payload=ForwardRequest(envelope=envelope).encode(),
        )
        self._frames.append(encode_frame(self._stream, REQUEST, request.encode()))
        self._stream += 2
        if len(self._frames) > _KEEP and self._sent == 0:
            del self._frames[0]
        self._flush()

    def _connect(self) -> bool:
        if self._sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                sock.connect(self._path)
            except OSError:
                sock.close()
                self._retry_later()
                return False
            self._sock, self._sent = sock, 0
            self._loop.watch(sock.fileno(), IN, self._event)
        return True

    def _retry_later(self) -> None:
        if not self._retrying:
            self._retrying = True
            self._loop.call_later(_RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        if self._frames:
            self._flush()

    def _flush(self) -> None:
        if not self._connect():
            return
        assert self._sock is not None
        try:
            while self._frames:
                self._sent += self._sock.send(self._frames[0][self._sent :])
                if self._sent < len(self._frames[0]):
                    break
                del self._frames[0]
                self._sent = 0
        except BlockingIOError:
            pass
        except OSError:
            self._lost()
            return
        self._loop.watch(self._sock.fileno(), IN | (OUT if self._frames else 0), self._event)

    def _event(self, events: int) -> None:
        assert self._sock is not None
        if events & IN:
            try:
                if not self._sock.recv(1 << 16):  # answers are of no interest
                    self._lost()
                    return
            except BlockingIOError:
                pass
            except OSError:
                self._lost()
                return
        if events & (HUP | ERR):
            self._lost()
        elif events & OUT:
            self._flush()

    def _lost(self) -> None:
        assert self._sock is not None
        self._loop.forget(self._sock.fileno())
        self._sock.close()
        self._sock, self._sent = None, 0
        if self._frames:
            self._retry_later()

    def settle(self, timeout_s: float) -> None:
        """Before the end: try to get rid of what is left."""
        deadline = time.monotonic() + timeout_s
        while self._frames and time.monotonic() < deadline:
            if not self._connect():
                return
            assert self._sock is not None
            self._sock.settimeout(max(0.01, deadline - time.monotonic()))
            self._flush()


class CommandPublisher:
    """`<binary> --address A publish --topic T --namespace N`, the event on its stdin. One process an event."""

    def __init__(self, binary: str, address: str, namespace: str) -> None:
        self._binary, self._address, self._namespace = binary, address, namespace

    def publish(self, event: Message) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.write(writer, Any(type_url=type_url(event), value=event.encode()).encode())
        os.close(writer)
        args = [
            self._binary, "--address", self._address, "publish",
            "--topic", TOPICS[type(event)], "--namespace", self._namespace,
        ]  # fmt: skip
        try:
            os.posix_spawnp(self._binary, args, dict(os.environ), file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)])
        except OSError as e:
            log.line("warning", f"publish event: run {self._binary!r}: {e}")
        finally:
            os.close(reader)

    def settle(self, timeout_s: float) -> None:
        """Each event has gone its own way already."""


class NoPublisher:
    """Nobody asked for events."""

    def publish(self, event: Message) -> None:
        """Wait and State tell all that our daemon wants to know."""

    def settle(self, timeout_s: float) -> None:
        """Nothing waits."""
