# SPDX-License-Identifier: Apache-2.0
"""The smallest runtime engine: real processes on the host, no namespaces. For tests of what supervises processes."""

from __future__ import annotations

import fcntl
import os
import signal
import termios

from wharfie.errdefs import NotFound
from wharfie.runtime import Started, Stats


class BareEngine:
    def __init__(self) -> None:
        self._pids: list[int] = []
        self._go = -1

    def _spawn(self, process, stdio, wait_fd=None) -> Started:
        program = process.args[0]
        if not os.path.exists(program):
            raise NotFound(f"exec {program!r}: no such file")
        master = slave = -1
        if process.terminal:
            master, slave = os.openpty()
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                if slave >= 0:
                    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
                    targets = (slave, slave, slave)
                else:
                    null = os.open("/dev/null", os.O_RDWR)
                    targets = tuple(null if fd is None else fd for fd in stdio)
                for number, fd in enumerate(targets):
                    os.dup2(fd, number)
                for number in (signal.SIGPIPE, signal.SIGXFSZ):
                    signal.signal(number, signal.SIG_DFL)
                if wait_fd is not None:
                    os.read(wait_fd, 1)
                os.closerange(3, 1 << 20)
                os.execve(program, process.args, dict(e.split("=", 1) for e in process.env))
            finally:
                os._exit(127)
        if slave >= 0:
            os.close(slave)
        self._pids.append(pid)
        return Started(pid, os.pidfd_open(pid), master if master >= 0 else None)

    def create(self, container_id, bundle, spec, rootfs, stdio) -> Started:
        reader, self._go = os.pipe2(os.O_CLOEXEC)
        try:
            return self._spawn(spec.process, stdio, reader)
        finally:
            os.close(reader)

    def start(self) -> None:
        os.write(self._go, b"x")
        os.close(self._go)

    def exec(self, exec_id, process, stdio) -> Started:
        return self._spawn(process, stdio)

    def kill(self, signal, *, all_processes=False) -> None:
        os.kill(self._pids[0], signal)

    def pids(self) -> list[int]:
        return self._pids

    def pause(self) -> None:
        os.kill(self._pids[0], signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._pids[0], signal.SIGCONT)

    def update(self, resources) -> None:
        pass

    def stats(self) -> Stats:
        return Stats(*([7] * 13))

    def oom_fd(self) -> int | None:
        return None

    def delete(self, *, force=False) -> None:
        pass


def fail(args: bytes, fds) -> bytes:
    raise NotFound(f"look for {args.decode()!r}: no such thing", hint="look elsewhere", path="/x")


def sleep(args: bytes, fds) -> bytes:
    import time

    os.write(fds[0], b"%d" % os.getpid())
    time.sleep(60)
    return b""
