# SPDX-License-Identifier: Apache-2.0
"""Client of the zygote: starts it, asks it for forks, starts it again when it was killed.

It runs from a sealed copy of the interpreter in memory: whatever enters a container from there can have its own
program rewritten through /proc/self/exe and harms nobody (CVE-2019-5736).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import signal
import socket
import sys
import time

import msgspec

from wharfie.errdefs import Unavailable
from wharfie.rpc.descriptors import receive
from wharfie.rpc.status import from_document
from wharfie.tasks.sealed import sealed_interpreter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

CGROUP = "/wharfie.shims"
_BOOT = "import sys; sys.path[:0] = sys.argv[4:6]; from wharfie.zygote.main import main; main()"
_TITLE_ROOM = 320
_BIG_ARGS = 64 << 10


class Forked:
    """A process that the zygote made. The pidfd is the caller's."""

    __slots__ = ("pid", "pidfd")

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid, self.pidfd = pid, pidfd


class Zygote:
    """`boot` is Python text to run instead of the product's (tests add entries that way)."""

    def __init__(self, state: str, *, cgroup: str = CGROUP, boot: str = _BOOT) -> None:
        self._state, self._cgroup, self._boot = state, cgroup, boot
        self._sock: socket.socket | None = None
        self._waiting: collections.deque[asyncio.Future[Forked]] = collections.deque()
        self._sending = asyncio.Lock()
        self._closed = False
        self._started_at = 0.0
        self.pid = 0

    def start(self) -> None:
        """Spawn it; it imports while we go on, and its socket keeps what is asked meanwhile."""
        if sys.platform == "win32":
            raise NotImplementedError
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        image = sealed_interpreter()
        import wharfie

        paths = [os.path.dirname(os.path.dirname(os.path.abspath(p))) for p in (wharfie.__file__, msgspec.__file__)]
        args = [sys.executable, "-SI", "-c", self._boot, "3", self._cgroup, self._state, *paths, " " * _TITLE_ROOM]
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
        ]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
        try:
            self.pid = os.posix_spawn(f"/proc/self/fd/{image}", args, environment, file_actions=actions)
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(image)
            theirs.close()
        self._started_at = time.monotonic()
        ours.setblocking(False)
        self._sock = ours
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, self._readable, ours)
        pidfd = os.pidfd_open(self.pid)
        loop.add_reader(pidfd, _reap, loop, pidfd, self.pid)

    async def fork(
        self, entry: str, args: bytes, fds: Sequence[int] = (), *, title: str = "", result: bool = False, log: str = ""
    ) -> Forked:
        """Fork `entry` with (args, fds). Raises what the zygote could not do; Unavailable if it was killed meanwhile.

        Cancelled after the request is out: the process is killed as soon as it is known.
        """
        if sys.platform == "win32":
            raise NotImplementedError
        with contextlib.ExitStack() as stack:
            beside = len(args) > _BIG_ARGS
            if beside:
                fds, args = [*fds, _in_memory(args, stack)], b""
            head = {"entry": entry, "title": title, "result": result, "log": log, "args_beside": beside}
            return await self._ask(entry, json.dumps(head).encode() + b"\n" + args, fds)

    async def _ask(self, entry: str, message: bytes, fds: Sequence[int]) -> Forked:
        if sys.platform == "win32":
            raise NotImplementedError
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Forked] = loop.create_future()
        async with self._sending:
            if self._sock is None:
                self.start()
            sock = self._sock
            assert sock is not None
            while True:
                try:
                    socket.send_fds(sock, [message], fds)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.002)
                except OSError as e:
                    self._lost(sock)
                    raise Unavailable(f"fork {entry}: the zygote is gone: {e.strerror}") from e
            self._waiting.append(answer)
        return await answer

    def _readable(self, sock: socket.socket) -> None:
        if sys.platform == "win32":
            raise NotImplementedError
        try:
            data, fds = receive(sock, 1 << 16, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._lost(sock)
            return
        answer = self._waiting.popleft()
        document = json.loads(data)
        if fds:
            if answer.done():
                signal.pidfd_send_signal(fds[0], signal.SIGKILL)
                os.close(fds[0])
            else:
                answer.set_result(Forked(document["pid"], fds[0]))
        elif not answer.done():
            answer.set_exception(from_document(document["error"]))

    def _lost(self, sock: socket.socket) -> None:
        if self._sock is not sock:
            return
        asyncio.get_running_loop().remove_reader(sock)
        sock.close()
        self._sock = None
        waiting, self._waiting = self._waiting, collections.deque()
        for answer in waiting:
            if not answer.done():
                answer.set_exception(Unavailable("fork: the zygote was killed", hint="it is being started again"))
        if not self._closed and time.monotonic() - self._started_at > 1:
            self.start()

    def close(self) -> None:
        """Its end of the conversation; what it has forked lives on."""
        self._closed = True
        if self._sock is not None:
            self._lost(self._sock)


def _in_memory(data: bytes, stack: contextlib.ExitStack) -> int:
    """Descriptor of a file with `data`, for what is too long for a message."""
    if sys.platform == "win32":
        raise NotImplementedError
    fd = os.memfd_create("args", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def _reap(loop: asyncio.AbstractEventLoop, pidfd: int, pid: int) -> None:
    loop.remove_reader(pidfd)
    os.close(pidfd)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
