# SPDX-License-Identifier: Apache-2.0
"""A shim's process, forked ahead and waiting for its request.

After a fork the first write to each page of memory costs a fault and a copy, and a shim writes (counts references) to a
thousand pages before the user's program runs: a third of its time. The spare has that behind it when the request comes.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

if sys.platform == "win32":
    raise ImportError("the zygote is a Linux process")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_MESSAGE = 192 << 10
MAX_FDS = 250
SPARE_AFTER_MS = 20
"""Without a request for so long, a new one is made: not in the middle of a burst, where a plain fork costs less."""


class Spare:
    """At most one. `wait` runs in the new process and never returns; its socket ends when the zygote does."""

    def __init__(self, wait: Callable[[socket.socket], None]) -> None:
        self._wait = wait
        self._pid, self._pidfd = 0, -1
        self._sock: socket.socket | None = None

    @property
    def ready(self) -> bool:
        return self._sock is not None

    def make(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
            if pid == 0:
                self._wait(theirs)
            self._pid, self._pidfd = pid, os.pidfd_open(pid)  # nobody has waited for the child yet
        except OSError:  # no memory, no processes left: whoever asks for a fork hears it
            ours.close()
            return
        finally:
            theirs.close()
        ours.setblocking(False)
        self._sock = ours

    def give(self, message: bytes, fds: Sequence[int]) -> tuple[int, int] | None:
        """Pass a request on to the spare: its pid, and a pidfd for the caller. None where there is no spare alive."""
        sock, self._sock = self._sock, None
        if sock is None:
            return None
        with sock:
            try:
                socket.send_fds(sock, [message], fds)
            except OSError:  # it was killed
                os.close(self._pidfd)
                return None
        return self._pid, self._pidfd

    def close(self) -> None:
        """End it, and wait for that."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            try:
                os.waitpid(self._pid, 0)
            except ChildProcessError:
                return  # it had been killed, and was reaped
