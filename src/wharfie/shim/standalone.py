# SPDX-License-Identifier: Apache-2.0
"""A shim for somebody else's daemon: the task service alone, stdio by URI, events to containerd."""

from __future__ import annotations

import os
import signal
import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie.shim.container import Container
from wharfie.shim.events import CommandPublisher, NoPublisher, TtrpcPublisher
from wharfie.shim.loop import Loop
from wharfie.shim.serve import ShimServer, become_subreaper
from wharfie.shim.service import TaskService

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

_SETTLE_S = 5.0


def serve(flags: dict[str, str], listener: socket.socket) -> None:
    """Until Shutdown. Flags as `main` reads them."""
    become_subreaper()
    loop = Loop()
    publisher = _publisher(loop, flags)
    container = Container(loop, flags["namespace"], flags["id"], publisher.publish, exit_file=False)
    service = TaskService(container, loop.stop)
    loop.on_signal(signal.SIGCHLD, container.reap)
    ShimServer(loop).listen_ttrpc(listener, service.handle)
    loop.run()
    publisher.settle(_SETTLE_S)


def _publisher(loop: Loop, flags: dict[str, str]) -> TtrpcPublisher | CommandPublisher | NoPublisher:
    ttrpc = os.environ.get("TTRPC_ADDRESS", "")
    if ttrpc:
        return TtrpcPublisher(loop, ttrpc.removeprefix("unix://"), flags["namespace"])
    if flags["publish-binary"] and flags["address"]:
        return CommandPublisher(flags["publish-binary"], flags["address"], flags["namespace"])
    return NoPublisher()
