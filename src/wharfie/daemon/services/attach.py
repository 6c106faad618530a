# SPDX-License-Identifier: Apache-2.0
"""Clients that attached before the start: their sockets wait here and go to the shim with the create request.

A parked socket is not read. That its client is gone shows as EPOLLHUP (both directions closed; a client that only ended
its stdin half is still there). A never-started AutoRemove container goes then, or after 60 seconds if nobody ever
attached (decisions 5).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from wharfie.daemon.services import containers_records as records
from wharfie.tasks import AttachRequest

if TYPE_CHECKING:
    from wharfie.daemon.services.container import Container
    from wharfie.daemon.services.containers import Containers

UNCLAIMED_S = 60.0


class ParkedAttach(NamedTuple):
    """`request.sock_fd` is ours to close."""

    request: AttachRequest

    @property
    def fd(self) -> int:
        return self.request.sock_fd


class Parking:
    def __init__(self, containers: Containers) -> None:
        self._containers = containers
        self._owners: dict[int, Container] = {}
        self._epoll: Any = None
        """select.epoll, where there is one."""

    def park(self, container: Container, request: AttachRequest) -> None:
        """Keep a client's socket for the start of `container`; takes over request.sock_fd."""
        container.parked.append(ParkedAttach(request))
        if sys.platform == "linux":
            if self._epoll is None:
                self._epoll = select.epoll()
                self._containers.engine.loop.add_reader(self._epoll.fileno(), self._hangups)
            self._epoll.register(request.sock_fd, 0)  # hang-ups and errors are always told
        self._owners[request.sock_fd] = container

    def take(self, container: Container) -> list[AttachRequest]:
        """All parked requests of `container`; their descriptors are the caller's now."""
        taken = [p.request for p in container.parked]
        container.parked.clear()
        for request in taken:
            self._forget(request.sock_fd)
        return taken

    def drop(self, container: Container) -> None:
        """Close what is parked: the container goes."""
        for request in self.take(container):
            os.close(request.sock_fd)

    def expect(self, container: Container) -> None:
        """An AutoRemove container was created: remove it if nobody starts it or attaches to it in time."""

        def look() -> None:
            state = container.state
            if not (container.gone or container.parked or container.starting or state.started_once or state.alive):
                self._remove(container)

        self._containers.engine.loop.call_later(UNCLAIMED_S, look)

    def close(self) -> None:
        for container in set(self._owners.values()):
            self.drop(container)
        if self._epoll is not None:
            self._containers.engine.loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _forget(self, fd: int) -> None:
        self._owners.pop(fd, None)
        if self._epoll is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def _hangups(self) -> None:
        if self._epoll is None:
            return
        for fd, _ in self._epoll.poll(0):
            container = self._owners.get(fd)
            self._forget(fd)
            if container is None:
                continue
            container.parked[:] = [p for p in container.parked if p.fd != fd]
            os.close(fd)
            never_ran = container.state.status == records.CREATED and not container.starting
            if container.summary.auto_remove and never_ran and not container.parked:
                self._remove(container)

    def _remove(self, container: Container) -> None:
        async def go() -> None:
            # A start may be on its way in the client's other connection: let it take the lock first.
            await asyncio.sleep(0.05)
            if container.state.status == records.CREATED and not container.starting and not container.gone:
                await self._containers.remove(container, volumes=True)

        self._containers.engine.spawn(go(), f"remove-unclaimed-{container.short}")
