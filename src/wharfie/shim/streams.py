# SPDX-License-Identifier: Apache-2.0
"""Stdio of one process: its output goes to the log and the sinks, clients' input goes to its stdin."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import struct
import sys
import termios

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie.logs import Selection
from wharfie.shim.loop import HUP, IN, OUT
from wharfie.shim.sinks import AttachSink, FollowSink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from wharfie.logs import Writer
    from wharfie.shim.loop import Loop
    from wharfie.shim.sinks import Sink
    from wharfie.tasks import AttachRequest, LogsRequest

    class Source(Protocol):
        """Somewhere stdin comes from; it is told when there is room again."""

        def rewatch(self) -> None: ...
        def close(self) -> None: ...


READ_BYTES = 64 << 10
PIPE_BYTES = 256 << 10
_STDIN_HIGH = 64 << 10
_READS = 16
LAST_WORDS_S = 0.05
"""From the end of all output to the end of its streams, while the process lives on."""


class Streams:
    """`add_output` and `set_stdin` give it the container's ends, which it owns from then on.

    `on_empty` is called when the last sink has gone (a shim that lingers for its clients waits for that).
    """

    buffer = memoryview(bytearray(READ_BYTES))

    def __init__(self, loop: Loop, *, log: Writer | None = None, stdin_once: bool = False) -> None:
        self.loop, self.log, self._stdin_once = loop, log, stdin_once
        self.sinks: list[Sink] = []
        self.sources: list[Source] = []
        self.ended = False
        self.on_empty: Callable[[], None] | None = None
        self._outputs: dict[int, int] = {}
        self._paused = False
        self._stdin = -1
        self._stdin_to_come = True
        self._stdin_pending = bytearray()
        self._stdin_closing = False
        self.console = -1

    # -- the container's ends

    def add_output(self, fd: int, stream: int) -> None:
        os.set_blocking(fd, False)
        self._outputs[fd] = stream
        self.loop.watch(fd, IN, functools.partial(self._readable_event, fd))

    def set_stdin(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._stdin = fd
        self._stdin_arrived()

    def set_console(self, fd: int) -> None:
        """A pty's master: output and stdin in one."""
        self.console = fd
        self.add_output(fd, 1)
        self._stdin = fd
        self._stdin_arrived()

    def resize(self, width: int, height: int) -> None:
        if self.console >= 0:
            fcntl.ioctl(self.console, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def _readable_event(self, fd: int, _: int) -> None:
        self._readable(fd)

    def _readable(self, fd: int) -> None:
        for _ in range(_READS):
            if self._paused or not self._read(fd):
                return

    def _read(self, fd: int) -> bool:
        """One chunk; False when there is none now, or none any more."""
        try:
            n = os.readv(fd, [self.buffer])
        except BlockingIOError:
            return False
        except OSError as e:
            if e.errno != errno.EIO:  # EIO: the last process has closed its side of the terminal
                raise
            n = 0
        if n == 0:
            self._close_output(fd)
            return False
        stream, data = self._outputs[fd], self.buffer[:n]
        if self.log is not None:
            self.log.write(stream, data)
        blocked = False
        for sink in tuple(self.sinks):
            sink.feed(stream, data)
            blocked = blocked or sink.blocked
        if blocked:
            self._pause()
        return n == READ_BYTES or fd != self.console

    def _pause(self) -> None:
        self._paused = True
        for fd in self._outputs:
            self.loop.watch(fd, 0, functools.partial(self._hung_up, fd))

    def _hung_up(self, fd: int, events: int) -> None:
        """A paused output whose writers are gone stays to be read; epoll would report it again and again."""
        if events & HUP:
            self.loop.forget(fd)

    def unblocked(self) -> None:
        """Some sink has room again or is gone."""
        if self._paused and not any(s.blocked for s in self.sinks):
            self._paused = False
            for fd in tuple(self._outputs):
                self.loop.watch(fd, IN, functools.partial(self._readable_event, fd))
        if self.ended and not self._paused:
            self.end()

    def _close_output(self, fd: int) -> None:
        self._outputs.pop(fd)
        self.loop.forget(fd)
        if fd == self.console:
            self.console = -1
            if self._stdin == fd:
                self._stdin = -1
        os.close(fd)
        if not self._outputs and not self.ended:
            # Mostly the process is just dying: its exit ends the streams then, and whoever sees the end can ask for it.
            self.loop.call_later(LAST_WORDS_S, self.end)

    def drain(self) -> None:
        """Read what is in the pipes now: all that a process wrote before it ended."""
        for fd in tuple(self._outputs):
            while fd in self._outputs and not self._paused and self._read(fd):
                pass

    def end(self) -> None:
        """The process has ended: sinks finish once they have everything. A blocked one first gets the rest."""
        self.ended = True
        self.drain()
        if not self._paused:
            for sink in tuple(self.sinks):
                sink.finish()

    def close(self) -> None:
        """Let go of the container's ends and the log; sinks that still have something to send stay."""
        self._paused = False
        self.end()
        for fd in tuple(self._outputs):
            self._close_output(fd)
        self._close_stdin()
        for source in self.sources:
            source.close()
        if self.log is not None and not self.sinks:
            self.log.close()
            self.log = None

    # -- stdin

    def stdin_room(self) -> bool:
        return len(self._stdin_pending) < _STDIN_HIGH

    def no_stdin(self) -> None:
        """The process runs without one: what clients send goes nowhere."""
        self._stdin_to_come = False
        self._stdin_pending.clear()
        self._rewatch_clients()

    def _stdin_arrived(self) -> None:
        self._stdin_to_come = False
        if self._stdin_pending or self._stdin_closing:
            self._flush_stdin(0)

    def write_stdin(self, data: bytes) -> None:
        if (self._stdin < 0 and not self._stdin_to_come) or self._stdin_closing:
            return
        had_room = self.stdin_room()
        self._stdin_pending += data
        if not self._stdin_to_come:
            self._flush_stdin(0)
        if had_room and not self.stdin_room():
            self._rewatch_clients()

    def _flush_stdin(self, _: int) -> None:
        had_room = self.stdin_room()
        try:
            while self._stdin_pending:
                del self._stdin_pending[: os.write(self._stdin, self._stdin_pending)]
        except BlockingIOError:
            pass
        except OSError:  # EPIPE, EIO: nobody reads it any more
            self._close_stdin()
        if self._stdin >= 0:
            self._watch_stdin()
        if not self._stdin_pending and self._stdin_closing:
            self._close_stdin()
        if not had_room and self.stdin_room():
            self._rewatch_clients()

    def _watch_stdin(self) -> None:
        want = OUT if self._stdin_pending else 0
        if self._stdin == self.console:
            fd = self.console
            self.loop.watch(fd, (0 if self._paused else IN) | want, lambda e: self._console_event(fd, e))
        elif want:
            self.loop.watch(self._stdin, OUT, self._flush_stdin)
        else:
            self.loop.forget(self._stdin)

    def _console_event(self, fd: int, events: int) -> None:
        if events & OUT:
            self._flush_stdin(0)
        if events & ~OUT and fd == self.console:
            self._readable(fd)

    def _rewatch_clients(self) -> None:
        for one in (*self.sinks, *self.sources):
            one.rewatch()

    def stdin_ended(self) -> None:
        """A client's input has ended (half close, or it went away)."""
        if self._stdin_once and self.console < 0:
            self.close_stdin()

    def close_stdin(self) -> None:
        """Close once everything written has been taken."""
        self._stdin_closing = True
        if not self._stdin_pending and not self._stdin_to_come:
            self._close_stdin()

    def _close_stdin(self) -> None:
        fd, self._stdin = self._stdin, -1
        self._stdin_pending.clear()
        if fd >= 0 and fd != self.console:
            self.loop.forget(fd)
            os.close(fd)

    # -- clients

    def add(self, sink: Sink) -> None:
        self.sinks.append(sink)

    def attach(self, request: AttachRequest) -> None:
        """Takes over request.sock_fd."""
        copier = None
        if request.replay_logs and self.log is not None:
            copier = self.log.copier(
                Selection(stdout=request.stdout, stderr=request.stderr, multiplexed=request.multiplexed)
            )
        sink = AttachSink(self, request, copier)
        self.sinks.append(sink)
        sink.start()
        if self.ended:
            sink.finish()

    def follow(self, request: LogsRequest) -> bool:
        """Takes over request.sock_fd. False where the log cannot be followed."""
        copier = self.log.copier(request) if self.log is not None else None
        if copier is None:
            return False
        sink = FollowSink(self, request.sock_fd, copier, request)
        self.sinks.append(sink)
        sink.finishing = self.ended or not request.follow
        sink.start()
        return True

    def gone(self, sink: Sink) -> None:
        if sink in self.sinks:
            self.sinks.remove(sink)
        if not self.sinks and self.on_empty is not None:
            self.on_empty()


def make_pipe(*, output: bool) -> tuple[int, int]:
    """A pipe with room for output: fewer, larger reads."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if output:
        try:
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            pass  # the user's pipe quota is used up: the default size works too
    return reader, writer
