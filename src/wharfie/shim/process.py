# SPDX-License-Identifier: Apache-2.0
"""One process of a container: its first, or an exec."""

from __future__ import annotations

import os
import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie.runtime import Stdio
from wharfie.shim.streams import Streams, make_pipe
from wharfie.spec.pb.base import CREATED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wharfie.runtime import Started
    from wharfie.spec.runtime import Process as ProcessSpec


class StdioURIs:
    """Where others want stdio (fifo paths or URIs), as State gives it back."""

    __slots__ = ("stderr", "stdin", "stdout")

    def __init__(self, stdin: str = "", stdout: str = "", stderr: str = "") -> None:
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr


class Process:
    """`waiting` are called once when it has ended. `spec` is an exec's process document until it is started."""

    def __init__(self, exec_id: str, streams: Streams, *, terminal: bool, stdin_open: bool, uris: StdioURIs) -> None:
        self.exec_id, self.streams, self.uris = exec_id, streams, uris
        self.terminal, self.stdin_open = terminal, stdin_open
        self.status = CREATED
        self.pid, self.pidfd = 0, -1
        self.exit_status, self.exited_ns, self.oom = 0, 0, False
        self.spec: ProcessSpec | None = None
        self.waiting: list[Callable[[], None]] = []

    @property
    def ended(self) -> bool:
        return self.exited_ns != 0

    def started(self, started: Started) -> None:
        self.pid, self.pidfd = started.pid, started.pidfd
        if started.console is not None:
            self.streams.set_console(started.console)

    def close(self) -> None:
        self.streams.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class StdioEnds:
    """Pipes for a process, both ends, until the process holds its own."""

    def __init__(self, *, terminal: bool, stdin: bool) -> None:
        self.stdio = Stdio()
        self._ours: list[tuple[int, int]] = []
        self._theirs: list[int] = []
        self._terminal = terminal
        if terminal:
            return
        theirs: list[int | None] = [None]
        try:
            if stdin:
                reader, writer = make_pipe(output=False)
                theirs = [reader]
                self._theirs.append(reader)
                self._ours.append((writer, 0))
            for stream in (1, 2):
                reader, writer = make_pipe(output=True)
                theirs.append(writer)
                self._theirs.append(writer)
                self._ours.append((reader, stream))
        except BaseException:
            self.close()
            raise
        self.stdio = Stdio(*theirs)

    def connect(self, streams: Streams) -> None:
        """The process runs: keep our ends in `streams`, close its."""
        ours, self._ours = self._ours, []
        for fd, stream in ours:
            if stream == 0:
                streams.set_stdin(fd)
            else:
                streams.add_output(fd, stream)
        if self.stdio.stdin is None and not self._terminal:
            streams.no_stdin()
        self.close()

    def close(self) -> None:
        for fd in [*self._theirs, *(fd for fd, _ in self._ours)]:
            os.close(fd)
        self._theirs, self._ours = [], []
