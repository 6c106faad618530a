# SPDX-License-Identifier: Apache-2.0
"""Words to the service manager (sd_notify(3)); nothing where there is none."""

from __future__ import annotations

import os
import socket
import sys


def notify(*assignments: str) -> None:
    """Send `READY=1` and the like. A service manager that does not listen is no reason to fail."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if sys.platform == "win32" or not path.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect("\0" + path[1:] if path[0] == "@" else path)
            sock.sendall("\n".join(assignments).encode())
        except OSError:
            return
