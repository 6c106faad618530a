# SPDX-License-Identifier: Apache-2.0
"""Entry `shim`: a shim for our own daemon, forked from the zygote, its sockets bound and connected before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie import logs
from wharfie.linux.libc import syscall
from wharfie.rpc.server import Connection, peer_uid
from wharfie.shim.container import Container
from wharfie.shim.events import NoPublisher, TtrpcPublisher
from wharfie.shim.loop import IN, OUT, Loop
from wharfie.shim.private import PrivateConnection, container_ops
from wharfie.shim.process import Process, StdioURIs
from wharfie.shim.service import TaskService
from wharfie.shim.streams import Streams
from wharfie.tasks.private import PROTOCOL, attach_request
from wharfie.tasks.sockets import PRIVATE, TTRPC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wharfie.rpc.server import Call
    from wharfie.shim.private import Ops

PR_SET_CHILD_SUBREAPER = 36
_LINGER_S = 60.0


class ShimServer:
    """Sockets of a shim: connections come and go, the shim stays until it is told to end."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._connections: set[object] = set()
        self.idle: Callable[[], None] | None = None
        """Called when the last connection has gone."""

    def listen_ttrpc(self, sock: socket.socket, handle: Callable[[Call], None]) -> None:
        sock.setblocking(False)
        self.loop.watch(sock.fileno(), IN, lambda _: self._accept(sock, lambda s: self.serve_ttrpc(s, handle)))

    def listen_private(self, sock: socket.socket, ops: Ops) -> None:
        sock.setblocking(False)
        self.loop.watch(sock.fileno(), IN, lambda _: self._accept(sock, lambda s: self.serve_private(s, ops)))

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        if peer_uid(sock) != os.geteuid():
            sock.close()
            return
        serve(sock)

    def serve_ttrpc(self, sock: socket.socket, handle: Callable[[Call], None]) -> None:
        fd = sock.fileno()

        def event(events: int) -> None:
            if events & OUT:
                connection.writable()
            if not connection.closed and events & ~OUT:
                connection.readable()

        def changed(connection: Connection) -> None:
            if connection.closed:
                self.loop.forget(fd)
                self._gone(connection)
            else:
                self.loop.watch(fd, IN | (OUT if connection.wants_write else 0), event)

        connection = Connection(sock, handle, changed)
        self._connections.add(connection)
        self.loop.watch(fd, IN, event)

    def serve_private(self, sock: socket.socket, ops: Ops) -> None:
        key = object()
        self._connections.add(key)
        PrivateConnection(self.loop, sock, ops, lambda: self._gone(key))

    def _gone(self, key: object) -> None:
        self._connections.discard(key)
        if not self._connections and self.idle is not None:
            self.idle()


def write_identity(run_directory: str, kind: str) -> None:
    """`shim.json`: what a daemon needs to find this process again (decisions 3)."""
    pid = os.getpid()
    document = {"version": PROTOCOL, "kind": kind, "pid": pid, "start_time": start_time(pid)}
    temporary = f"{run_directory}/.shim.json"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    os.write(fd, json.dumps(document).encode())
    os.close(fd)
    os.rename(temporary, f"{run_directory}/shim.json")


def start_time(pid: int) -> int:
    """Start of a process in clock ticks since boot: with the pid it names the process for good."""
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as f:
        return int(f.read(4096).rpartition(b")")[2].split()[19])


def become_subreaper() -> None:
    syscall("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def serve(args: bytes, fds: Sequence[int]) -> None:
    """Args: JSON (see `tasks.manager`); fds: both listeners, both first connections, then the parked clients."""
    document = json.loads(args)
    run_directory: str = document["run"]
    write_identity(run_directory, "shim")
    become_subreaper()
    listener, private_listener, first, private_first = (socket.socket(fileno=fd) for fd in fds[:4])
    loop = Loop()
    server = ShimServer(loop)
    publisher = (
        TtrpcPublisher(loop, document["events"], document["namespace"]) if document.get("events") else NoPublisher()
    )
    container = Container(loop, document["namespace"], document["id"], publisher.publish, exit_file=True)
    container.exit_durable = document["exit_durable"]

    def finish() -> None:
        """Gone for the daemon; clients that are slow to read still get what is theirs."""
        _remove_run_directory(run_directory)
        _linger(loop, container)

    log = document["log"]
    streams = Streams(
        loop,
        log=logs.open_writer(
            log["driver"],
            log["path"],
            terminal=document["terminal"],
            max_size_bytes=log["max_size_bytes"],
            max_files=log["max_files"],
        ),
        stdin_once=document["stdin_once"],
    )
    service = TaskService(container, finish, runtime=document["runtime"], options=document["runtime_options"])
    service.prepared = Process(
        "", streams, terminal=document["terminal"], stdin_open=document["stdin_open"], uris=StdioURIs()
    )
    for one, fd in zip(document["attach"], fds[4:], strict=True):
        streams.attach(attach_request(one, fd))

    def abandoned() -> None:
        if container.init is None:  # the daemon died, or gave up, before it came to Create
            finish()

    server.idle = abandoned
    loop.on_signal(signal.SIGCHLD, container.reap)
    ops = container_ops(container, finish)
    server.listen_ttrpc(listener, service.handle)
    server.listen_private(private_listener, ops)
    server.serve_ttrpc(first, service.handle)
    server.serve_private(private_first, ops)
    loop.run()
    publisher.settle(1.0)


def _remove_run_directory(path: str) -> None:
    """Flat as a rule, and then without looking into it."""
    for name in ("shim.json", "shim.log", "bundle", TTRPC, PRIVATE):
        try:
            os.unlink(f"{path}/{name}")
        except FileNotFoundError:
            continue
    try:
        os.rmdir(path)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)


def _linger(loop: Loop, container: Container) -> None:
    sinks = container.init.streams if container.init is not None else None
    if sinks is None or not sinks.sinks:
        loop.stop()
        return
    sinks.on_empty = loop.stop
    loop.call_later(_LINGER_S, loop.stop)
