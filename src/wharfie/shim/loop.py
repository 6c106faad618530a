# SPDX-License-Identifier: Apache-2.0
"""An epoll loop: descriptors, timers, SIGCHLD. Callbacks run to their end, one at a time."""

from __future__ import annotations

import functools
import heapq
import os
import select
import signal
import sys
import time
import traceback

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

IN, OUT, HUP, ERR = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP, select.EPOLLERR
RDHUP = select.EPOLLRDHUP


class Timer:
    __slots__ = ("at_s", "callback")

    def __init__(self, at_s: float, callback: Callable[[], None]) -> None:
        self.at_s, self.callback = at_s, callback

    def __lt__(self, other: Timer) -> bool:
        return self.at_s < other.at_s

    def cancel(self) -> None:
        self.callback = _nothing


def _nothing() -> None:
    """A cancelled timer."""


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._timers: list[Timer] = []
        self._soon: list[Callable[[], None]] = []
        self._stopped = False

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` when something of `events` (or HUP, ERR) is there; again, to change what is watched."""
        old = self._watched.get(fd)
        if old is None:
            self._epoll.register(fd, events)
        elif old[0] != events:
            self._epoll.modify(fd, events)
        self._watched[fd] = (events, callback)

    def forget(self, fd: int) -> None:
        """Before fd is closed. One that is not watched is fine."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + delay_s, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Once the callbacks of this round have run."""
        self._soon.append(callback)

    def on_signal(self, number: int, callback: Callable[[], None]) -> None:
        """Call back, in the loop's own time, when a signal has come (SIGCHLD: children may have ended)."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

        def woken(_: int) -> None:
            os.read(reader, 4096)
            callback()

        self.watch(reader, IN, woken)

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        while not self._stopped:
            for fd, events in self._epoll.poll(self._timeout()):
                watched = self._watched.get(fd)
                if watched is not None:
                    _run(functools.partial(watched[1], events))
            now = time.monotonic()
            while self._timers and self._timers[0].at_s <= now:
                _run(heapq.heappop(self._timers).callback)
            while self._soon and not self._stopped:
                soon, self._soon = self._soon, []
                for callback in soon:
                    _run(callback)

    def close(self) -> None:
        """Let go of the epoll; what was watched is its owner's."""
        self._epoll.close()

    def _timeout(self) -> float:
        if self._soon:
            return 0
        return max(0.0, self._timers[0].at_s - time.monotonic()) if self._timers else -1


def _run(callback: Callable[[], None]) -> None:
    """A defect in one callback must not take the container's supervisor down."""
    try:
        callback()
    except Exception:
        log.line("error", f"shim: callback failed\n{traceback.format_exc()}")
