# SPDX-License-Identifier: Apache-2.0
"""A shim's sockets, below a run directory whose path may be longer than a socket's address can be."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

TTRPC, PRIVATE = "shim.sock", "private.sock"


def listen(directory: str, name: str, kind: int) -> socket.socket:
    """Bind and listen at `<directory>/<name>`, 0600 whatever the umask."""
    if sys.platform == "win32":
        raise NotImplementedError
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        _at(directory, name, sock.bind)
        os.chmod(f"{directory}/{name}", 0o600)
        sock.listen(64)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(directory: str, name: str, kind: int) -> socket.socket:
    """Raises OSError."""
    if sys.platform == "win32":
        raise NotImplementedError
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        _at(directory, name, sock.connect)
    except BaseException:
        sock.close()
        raise
    return sock


def _at(directory: str, name: str, call: Callable[[str], object]) -> None:
    if sys.platform == "win32":
        raise NotImplementedError
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)
