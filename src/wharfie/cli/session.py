# SPDX-License-Identifier: Apache-2.0
"""The user's side of an attached container or exec: stdin, stdout, stderr, signals and window size against one stream.

One poll loop, no threads. Nothing is read from stdin while the engine hasn't taken what was read before, so a container
that writes without reading can't deadlock with us.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # `signal` builds enums: 4 ms
import os
import select
import sys

from wharfie.cli import terminal
from wharfie.client.frames import Splitter, write_all
from wharfie.errdefs import Unsupported, WharfieError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wharfie.client.http import Connection

if sys.platform == "win32":
    _IN, _OUT = 1, 4
else:
    _IN, _OUT = select.POLLIN, select.POLLOUT
FIRST_BUFFER, BUFFER = 64 << 10, 1 << 20
_MSG_DONTWAIT = 0x40
PROXIED = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "CONT")
FORCED = 3
"""So many INT or TERM in a row end us, when the container ignores them."""


class Session:
    """Set the attributes, then `run()`.

    on_signal(name) passes a signal on (None: signals keep their usual meaning); on_resize(rows, columns) tells a new size.
    """

    __slots__ = (
        "_buffer", "_forced", "_pending", "_pipe", "_splitter", "_stdin_open", "_watch", "detached", "ended_by", "on_resize",
        "on_signal", "stream", "tty",
    )  # fmt: skip

    def __init__(
        self,
        stream: Connection,
        *,
        tty: bool,
        stdin: bool,
        stdout: bool = True,
        stderr: bool = True,
        detach_keys: str = "",
    ) -> None:
        self.stream = stream
        self.tty = tty
        self.on_signal: Callable[[str], None] | None = None
        self.on_resize: Callable[[int, int], None] | None = None
        self.detached = False
        self.ended_by = 0
        self._stdin_open = stdin
        self._pending = b""
        self._buffer = bytearray(FIRST_BUFFER)
        self._splitter = None if tty else Splitter(1 if stdout else None, 2 if stderr else None)
        self._watch = terminal.KeyWatch(terminal.keys(detach_keys or terminal.DETACH_KEYS)) if tty and stdin else None
        self._pipe: tuple[int, int] | None = None
        self._forced = 0

    def catch_signals(self) -> None:
        """From here on signals are noted; call it before the container starts, so that none is lost."""
        if self._pipe is not None:
            return
        if sys.platform == "win32":
            raise Unsupported(
                "attach: not supported on Windows yet", hint="run it with -d, and read its output by logs"
            )
        read, write = self._pipe = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        _signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        if self.tty:  # keys come as bytes; who sends these from outside wants us gone, and the terminal back
            names: tuple[str, ...] = ("WINCH", "HUP", "INT", "QUIT", "TERM")
        else:
            names = PROXIED if self.on_signal is not None else ()
        for name in names:
            number = getattr(_signal, f"SIG{name}", None)
            if number is not None and _signal.getsignal(number) != _signal.SIG_IGN:
                _signal.signal(number, _noted)

    def run(self, *, until: Connection | None = None) -> None:
        """Copy until the stream ends; then, with `until`, go on passing signals until that connection has something."""
        sys.stdout.flush()
        self.catch_signals()
        if self.tty and self._stdin_open:
            with terminal.Raw(0):
                self._loop(until)
        else:
            self._loop(until)

    def _loop(self, until: Connection | None) -> None:
        if sys.platform == "win32":
            raise Unsupported("attach: not supported on Windows yet")
        poll = select.poll()
        sock = self.stream.sock
        stream_fd, signal_fd = sock.fileno(), self._pipe[0] if self._pipe else -1
        poll.register(signal_fd, _IN)
        poll.register(stream_fd, _IN)
        if self._stdin_open:
            poll.register(0, _IN)
        if self.stream.early:
            self._show(self.stream.take())
        open_ = True
        while True:
            for fd, events in poll.poll():
                if fd == signal_fd:
                    self._signals()
                elif fd == 0:
                    if open_ and self._stdin_open:  # else it ended in this very round
                        self._read_stdin(poll, stream_fd)
                elif open_ and fd == stream_fd:
                    if events & _OUT:
                        self._send(poll, stream_fd)
                    if events & ~_OUT and not self._receive():
                        open_ = False
                        poll.unregister(stream_fd)
                        if self._stdin_open:
                            self._stop_stdin(poll)
                        if until is not None:
                            poll.register(until.sock.fileno(), _IN)
                elif until is not None and fd == until.sock.fileno():
                    return
            if self.detached or self.ended_by or (not open_ and (until is None or until.early)):
                return

    def _receive(self) -> bool:
        try:
            count = self.stream.sock.recv_into(self._buffer)
        except ConnectionResetError:
            count = 0
        if not count:
            if self._splitter is not None:
                self._splitter.close()
            return False
        self._show(memoryview(self._buffer)[:count])
        if count == FIRST_BUFFER == len(self._buffer):  # a lot is coming; others needn't clear a megabyte
            self._buffer = bytearray(BUFFER)
        return True

    def _show(self, data: bytes | memoryview) -> None:
        if self._splitter is not None:
            self._splitter.feed(data)
        else:
            write_all(1, [memoryview(data)])

    def _read_stdin(self, poll: Any, stream_fd: int) -> None:
        try:
            data = os.read(0, 65536)
        except BlockingIOError:
            return
        except OSError:  # EIO: the terminal is gone; EBADF: there was none
            data = b""
        if not data:
            self._stop_stdin(poll)
            if not self._pending:
                self._end_of_input()
            return
        if self._watch is not None:
            data = self._watch.feed(data)
            if self._watch.found:
                self.detached = True
        self._pending += data
        self._send(poll, stream_fd)

    def _stop_stdin(self, poll: Any) -> None:
        if self._stdin_open:
            self._stdin_open = False
            try:
                poll.unregister(0)
            except KeyError:  # paused, because the engine was slow to take
                return

    def _send(self, poll: Any, stream_fd: int) -> None:
        try:
            if self._pending:
                sent = self.stream.sock.send(self._pending, _MSG_DONTWAIT)
                self._pending = self._pending[sent:]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._pending = b""
            self._stop_stdin(poll)
        if self._pending:
            poll.modify(stream_fd, _IN | _OUT)
            if self._stdin_open:
                try:
                    poll.unregister(0)
                except KeyError:
                    return
        else:
            poll.modify(stream_fd, _IN)
            if self._stdin_open:
                poll.register(0, _IN)
            else:
                self._end_of_input()

    def _end_of_input(self) -> None:
        try:
            self.stream.sock.shutdown(1)
        except OSError:  # the engine has closed already: nothing left to say
            return

    def _signals(self) -> None:
        assert self._pipe
        for number in os.read(self._pipe[0], 256):
            name = _name(number)
            if name == "WINCH":
                if self.on_resize is not None and (size := terminal.size()):
                    self.on_resize(*size)
            elif self.on_signal is None or self.tty:
                self.ended_by = number
            else:
                self._forced = self._forced + 1 if name in ("INT", "TERM") else 0
                if self._forced > FORCED:
                    self.ended_by = number
                    return
                try:
                    self.on_signal(name)
                except WharfieError as e:
                    from wharfie.cli.say import err

                    err(f"wharfie: pass signal {name} on: {e.message}")


def _noted(_number: int, _frame: object) -> None:
    """The wake-up descriptor carries the number; the handler only keeps the default action away."""


def _name(number: int) -> str:
    return next(name for name in (*PROXIED, "WINCH") if getattr(_signal, f"SIG{name}", None) == number)
