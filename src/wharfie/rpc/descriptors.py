# SPDX-License-Identifier: Apache-2.0
"""Receiving descriptors. `socket.recv_fds` ignores its flags, so what it takes in would leak into every exec."""

from __future__ import annotations

import array
import os
import socket
import sys


def receive(sock: socket.socket, size: int, max_fds: int) -> tuple[bytes, list[int]]:
    """(message, descriptors), all close-on-exec. A message that lost some of either is an OSError, none stays open."""
    if sys.platform == "win32":
        raise NotImplementedError
    fds = array.array("i")
    data, ancillary, flags, _ = sock.recvmsg(size, socket.CMSG_SPACE(max_fds * fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    received = list(fds)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in received:
            os.close(fd)
        raise OSError(90, "receive descriptors: message too long")
    return data, received
