# SPDX-License-Identifier: Apache-2.0
"""Copying between the caller's terminal and a container's, until the container's process ends."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import fcntl
import os
import select
import signal
import struct
import termios
import tty

from wharfie.linux.pty import TIOCSWINSZ


def _resize(master: int) -> None:
    try:
        size = fcntl.ioctl(0, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        fcntl.ioctl(master, TIOCSWINSZ, size)
    except OSError:
        return  # stdin is no terminal: there is no size to pass on


def copy(master: int, pidfd: int) -> None:
    """Raw mode meanwhile; resizes are passed on. Closes master."""
    saved = termios.tcgetattr(0) if os.isatty(0) else None
    if saved is not None:
        tty.setraw(0)
    signal.signal(signal.SIGWINCH, lambda *_: _resize(master))
    _resize(master)
    try:
        _loop(master, pidfd)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
        os.close(master)


def _loop(master: int, pidfd: int) -> None:
    poll = select.poll()
    poll.register(master, select.POLLIN)
    poll.register(0, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    while True:
        events = dict(poll.poll())
        if master in events:
            try:
                data = os.read(master, 65536)
            except OSError:
                data = b""  # EIO: the last holder of the other end is gone
            if not data:
                return
            _write_all(1, data)
        elif pidfd in events:
            return
        if 0 in events:
            data = os.read(0, 65536)
            if data:
                _write_all(master, data)
            else:
                poll.unregister(0)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
