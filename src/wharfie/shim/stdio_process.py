# SPDX-License-Identifier: Apache-2.0
"""Entry `stdio`: for a task under somebody else's shim, the half of a shim that it lacks: log, attach, follow.

It holds the fifos that the other shim writes into, and serves the private socket. It ends on `delete`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from typing import Any

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie import logs
from wharfie.errdefs import AlreadyExists, FailedPrecondition, NotFound
from wharfie.shim.loop import IN, Loop
from wharfie.shim.serve import ShimServer, write_identity
from wharfie.shim.streams import Streams
from wharfie.tasks.private import attach_request, logs_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LINGER_S = 60.0


class StdioServer:
    """Streams by exec id ("" for the container itself)."""

    def __init__(self, loop: Loop, run_directory: str, init: Streams) -> None:
        self._loop, self._run = loop, run_directory
        self._streams = {"": init}

    def open_fifos(self, exec_id: str, *, terminal: bool, stdin: bool) -> None:
        """Make the fifos of a process and hold our ends before the shim opens its own."""
        streams = self._streams[exec_id]
        for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
            if (number == 0 and not stdin) or (number == 2 and terminal):
                continue
            path = fifo_path(self._run, exec_id, name)
            os.mkfifo(path, 0o600)
            if number == 0:
                streams.set_stdin(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            else:
                streams.add_output(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), number)
        if not stdin:
            streams.no_stdin()

    def _find(self, exec_id: str) -> Streams:
        streams = self._streams.get(exec_id)
        if streams is None:
            raise NotFound(f"find exec {exec_id!r}: no such process")
        return streams

    def ops(self) -> dict[str, Any]:
        return {
            "attach": self._attach, "logs": self._logs, "exec": self._exec, "exec_delete": self._exec_delete,
            "close_stdin": self._close_stdin, "delete": self._delete, "ready": lambda *_: None,
        }  # fmt: skip

    def _attach(self, document: dict[str, Any], fds: list[int]) -> None:
        self._find(document.pop("exec_id")).attach(attach_request(document, fds.pop(0)))

    def _logs(self, document: dict[str, Any], fds: list[int]) -> None:
        streams = self._streams[""]
        if streams.log is None or not streams.follow(logs_request(document, fds.pop(0))):
            raise FailedPrecondition("follow logs: this container's log cannot be followed")

    def _exec(self, document: dict[str, Any], fds: list[int]) -> None:
        exec_id = document["exec_id"]
        if exec_id in self._streams:
            raise AlreadyExists(f"exec: exec {exec_id!r} exists")
        self._streams[exec_id] = streams = Streams(self._loop, stdin_once=True)
        for one in document["attach"]:
            streams.attach(attach_request(one, fds.pop(0)))
        self.open_fifos(exec_id, terminal=document["terminal"], stdin=document["stdin_open"])

    def _exec_delete(self, document: dict[str, Any], fds: list[int]) -> None:
        exec_id = document["exec_id"]
        self._find(exec_id).close()
        del self._streams[exec_id]
        for name in ("stdin", "stdout", "stderr"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fifo_path(self._run, exec_id, name))

    def _close_stdin(self, document: dict[str, Any], fds: list[int]) -> None:
        self._find(document["exec_id"]).close_stdin()

    def _delete(self, document: dict[str, Any], fds: list[int]) -> object:
        return {}, self.finish

    def finish(self) -> None:
        for streams in self._streams.values():
            streams.close()
        shutil.rmtree(self._run, ignore_errors=True)
        waiting = [s for s in self._streams.values() if s.sinks]
        if not waiting:
            self._loop.stop()
            return

        def empty() -> None:
            if not any(s.sinks for s in waiting):
                self._loop.stop()

        for streams in waiting:
            streams.on_empty = empty
        self._loop.call_later(_LINGER_S, self._loop.stop)


def fifo_path(run_directory: str, exec_id: str, name: str) -> str:
    return f"{run_directory}/{exec_id or 'init'}-{name}"


def serve(args: bytes, fds: Sequence[int]) -> None:
    """Args: JSON {run, id, log, terminal, stdin_open, stdin_once, attach}; fds: listener, first connection, clients."""
    document = json.loads(args)
    loop = Loop()
    log = document["log"]
    init = Streams(
        loop,
        log=logs.open_writer(
            log["driver"], log["path"], terminal=document["terminal"],
            max_size_bytes=log["max_size_bytes"], max_files=log["max_files"],
        ),
        stdin_once=document["stdin_once"],
    )  # fmt: skip
    stdio = StdioServer(loop, document["run"], init)
    server = ShimServer(loop)
    for one, fd in zip(document["attach"], fds[2:], strict=True):
        init.attach(attach_request(one, fd))
    stdio.open_fifos("", terminal=document["terminal"], stdin=document["stdin_open"])
    _keep_shim_log(loop, f"{document['run']}/{document['id']}/log")
    write_identity(document["run"], "stdio")
    loop.on_signal(signal.SIGTERM, stdio.finish)
    server.listen_private(socket.socket(fileno=fds[0]), stdio.ops())
    server.serve_private(socket.socket(fileno=fds[1]), stdio.ops())
    loop.run()


def _keep_shim_log(loop: Loop, path: str) -> None:
    """What the other shim logs goes where our own messages go: `shim.log`, which is stderr here."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def readable(_: int) -> None:
        try:
            os.write(2, os.read(fd, 1 << 16))
        except BlockingIOError:
            return

    loop.watch(fd, IN, readable)
