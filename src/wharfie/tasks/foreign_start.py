# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC230 - a run directory is tmpfs: a thread would cost more than the call
"""Starting a shim of somebody else with our `stdio` process beside it, and finding both again (`foreign`)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable

from wharfie.errdefs import Unavailable
from wharfie.rpc.client import connect
from wharfie.spec.pb import task as pb
from wharfie.tasks import CreateRequest, TaskExit, sockets
from wharfie.tasks.events_server import EventsServer
from wharfie.tasks.foreign import ForeignTask, address_path, foreign_bundle
from wharfie.tasks.private import shim_document
from wharfie.tasks.private_client import PrivateClient
from wharfie.tasks.shim import ShimTask
from wharfie.tasks.zygote import Zygote


class ForeignStarter:
    def __init__(
        self,
        state: str,
        zygote: Zygote,
        worker: Callable[[str, bytes], Awaitable[bytes]],
        died: Callable[[ShimTask], Awaitable[TaskExit]],
    ) -> None:
        self._state, self._zygote, self._worker, self._died = state, zygote, worker, died
        self._events_path = f"{state}/shims/events.sock"
        self._events = EventsServer(self._events_path)

    def close(self) -> None:
        self._events.close()

    async def start(self, request: CreateRequest, run: str, program: str) -> ForeignTask:
        """Its shim and our `stdio` process; `address` and `foreign` in the run directory find both again."""
        self._events.open()
        with open(f"{run}/bundle", "w") as f:
            f.write(request.bundle)
        foreign_bundle(request.bundle, f"{run}/{request.container_id}")
        private = await self._fork_stdio(request, run)
        try:
            await private.call({"op": "ready"})
            said = await self._worker("foreign-shim", self._args(request, run, program))
            path = address_path(said)
            with open(f"{run}/address", "w") as f:
                json.dump({"path": path, "program": program}, f)
            return await self._connect(request.namespace, request.container_id, run, request.bundle, private)
        except BaseException:
            with contextlib.suppress(Unavailable):
                await private.call({"op": "delete"})
            private.close()
            raise

    def _args(self, request: CreateRequest, run: str, program: str) -> bytes:
        return json.dumps({
            "program": program, "namespace": request.namespace, "id": request.container_id, "bundle": f"{run}/{request.container_id}",
            "events": self._events_path, "address": f"{self._state}/containerd.sock",
        }).encode()  # fmt: skip

    async def _fork_stdio(self, request: CreateRequest, run: str) -> PrivateClient:
        if sys.platform == "win32":
            raise NotImplementedError
        with sockets.listen(run, sockets.PRIVATE, socket.SOCK_SEQPACKET) as listener:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                forked = await self._zygote.fork(
                    "stdio",
                    json.dumps(shim_document(request, run)).encode(),
                    [listener.fileno(), theirs.fileno(), *(a.sock_fd for a in request.attach)],
                    title=f"wharfie-stdio -namespace {request.namespace} -id {request.container_id} {self._state}",
                    log=f"{run}/shim.log",
                )
                os.close(forked.pidfd)
        return PrivateClient(ours)

    async def _connect(
        self, namespace: str, container_id: str, run: str, bundle: str, private: PrivateClient
    ) -> ForeignTask:
        if sys.platform == "win32":
            raise NotImplementedError
        with open(f"{run}/address", "rb") as f:
            path = json.loads(f.read())["path"]
        sock = sockets.connect(os.path.dirname(path), os.path.basename(path), socket.SOCK_STREAM)
        client = await connect(sock, namespace)
        try:
            asked = pb.IDRequest(id=container_id)
            about: pb.ConnectResponse = await client.call(pb.SERVICE, "Connect", asked, pb.ConnectResponse)
            pidfd = os.pidfd_open(about.shim_pid)
        except BaseException:
            client.close()
            raise
        task = ForeignTask(
            namespace, container_id, bundle, pidfd=pidfd, client=client, private=private, died=self._died
        )
        task.run, task.pid = run, about.task_pid
        return task

    async def reconnect(self, namespace: str, container_id: str, run: str, bundle: str) -> ForeignTask:
        self._events.open()
        private = PrivateClient(sockets.connect(run, sockets.PRIVATE, socket.SOCK_SEQPACKET))
        try:
            return await self._connect(namespace, container_id, run, bundle, private)
        except BaseException:
            private.close()
            raise
