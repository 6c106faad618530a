# SPDX-License-Identifier: Apache-2.0
"""The shim's end of the private socket (`tasks.private`): attach, logs and exec with descriptors, raw stats, delete."""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from typing import Any

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie.errdefs import FailedPrecondition, InvalidArgument, WharfieError
from wharfie.rpc.descriptors import receive
from wharfie.rpc.status import to_document
from wharfie.shim.loop import ERR, HUP, IN
from wharfie.shim.process import Process, StdioURIs
from wharfie.shim.streams import Streams
from wharfie.spec.runtime import decode_process
from wharfie.tasks.private import MAX_FDS, MAX_MESSAGE, attach_request, logs_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wharfie.shim.container import Container
    from wharfie.shim.loop import Loop

    Ops = dict[str, Callable[[dict[str, Any], list[int]], object]]


class PrivateConnection:
    """One connection. An op takes descriptors out of the list that it is given; what is left is closed."""

    def __init__(self, loop: Loop, sock: socket.socket, ops: Ops, closed: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._loop, self._sock, self._ops, self._closed = loop, sock, ops, closed
        loop.watch(sock.fileno(), IN, self._event)

    def _event(self, events: int) -> None:
        if events & IN:
            try:
                data, fds = receive(self._sock, MAX_MESSAGE, MAX_FDS)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if data:
                self._handle(data, fds)
                return
        if events & (IN | HUP | ERR):
            self.close()

    def _handle(self, data: bytes, fds: list[int]) -> None:
        answer: dict[str, object] = {"seq": 0}
        after = None
        try:
            document = json.loads(data)
            answer["seq"] = document.pop("seq")
            op = self._ops.get(document.pop("op"))
            if op is None:
                raise InvalidArgument("call shim: no such operation", hint="shim and daemon are of different versions")
            result = op(document, fds)
            if isinstance(result, tuple):
                result, after = result
            answer["ok"] = result
        except (WharfieError, OSError) as e:
            answer["error"] = to_document(e)
        except Exception as e:
            traceback.print_exc(file=sys.stderr)
            answer["error"] = to_document(e)
        for fd in fds:
            os.close(fd)
        if after is not None:  # what is gone when the answer comes is gone
            after()
        try:
            self._sock.send(json.dumps(answer).encode())
        except OSError:  # it does not read its answers
            self.close()

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.forget(self._sock.fileno())
            self._sock.close()
            self._closed()


def container_ops(container: Container, finish: Callable[[], None]) -> Ops:
    """What can be asked about a container; `finish` ends the shim before the answer is out."""

    def attach(document: dict[str, Any], fds: list[int]) -> None:
        streams = container.process(document.pop("exec_id")).streams
        streams.attach(attach_request(document, _one(fds)))

    def logs(document: dict[str, Any], fds: list[int]) -> None:
        streams = container.process("").streams
        if streams.log is None:
            raise FailedPrecondition("follow logs: this container keeps no log")
        if not streams.follow(logs_request(document, _one(fds))):
            raise FailedPrecondition("follow logs: this log driver cannot be followed")

    def exec_(document: dict[str, Any], fds: list[int]) -> None:
        streams = Streams(container.loop, stdin_once=True)
        process = Process(
            document["exec_id"],
            streams,
            terminal=document["terminal"],
            stdin_open=document["stdin_open"],
            uris=StdioURIs(),
        )
        process.spec = decode_process(document["process"].encode())
        process.spec.terminal = process.terminal
        container.add_exec(process)
        for one in document["attach"]:
            streams.attach(attach_request(one, fds.pop(0)))

    def stats(_document: dict[str, Any], _fds: list[int]) -> object:
        container.process("")
        return container.engine.stats()._asdict()

    def delete(_document: dict[str, Any], _fds: list[int]) -> object:
        p = container.delete("")
        return {"exit_status": p.exit_status, "exited_at_s": p.exited_ns / 1e9, "oom": p.oom}, finish

    return {"attach": attach, "logs": logs, "exec": exec_, "stats": stats, "delete": delete}


def _one(fds: list[int]) -> int:
    if not fds:
        raise InvalidArgument("call shim: a descriptor is missing")
    return fds.pop(0)
