# SPDX-License-Identifier: Apache-2.0
"""Pseudo-terminals opened by descriptor: the other end never by its name, which a container could have swapped."""

from __future__ import annotations

import struct
import sys

from wharfie.linux.openat2 import O_NOCTTY, O_RDWR

# asm-generic/ioctls.h
TIOCSCTTY = 0x540E
TIOCSWINSZ = 0x5414
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441


def unlock_and_open_peer(master_fd: int) -> int:
    """The terminal (slave) end of a ptmx descriptor. Close-on-exec."""
    if sys.platform == "win32":
        raise NotImplementedError
    import fcntl

    fcntl.ioctl(master_fd, TIOCSPTLCK, struct.pack("i", 0))
    return fcntl.ioctl(master_fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | 0o2000000)


def set_size(fd: int, rows: int, columns: int) -> None:
    if sys.platform == "win32":
        raise NotImplementedError
    import fcntl

    fcntl.ioctl(fd, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def make_controlling(fd: int) -> None:
    """Make the terminal the controlling one of the caller's (new) session."""
    if sys.platform == "win32":
        raise NotImplementedError
    import fcntl

    fcntl.ioctl(fd, TIOCSCTTY, 0)
