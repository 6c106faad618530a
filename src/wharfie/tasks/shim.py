# SPDX-License-Identifier: Apache-2.0
"""A task behind a shim: containerd's task API by ttrpc, the rest by the private socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from wharfie.errdefs import Unavailable
from wharfie.rpc.client import Client
from wharfie.spec.pb import task as pb
from wharfie.spec.pb.base import RESOURCES_URL, STATUS_NAMES, STOPPED, Empty
from wharfie.spec.pb.base import Any as PbAny
from wharfie.spec.pb.codec import Message
from wharfie.tasks import AttachRequest, LogsRequest, TaskExit, TaskState
from wharfie.tasks.private import attach_document, exec_document, logs_document
from wharfie.tasks.private_client import PrivateClient

_END_S = 10.0


class ShimTask:
    """One of ours. `died` is awaited once when the shim has ended unasked: it cleans up and tells the exit."""

    def __init__(
        self,
        namespace: str,
        container_id: str,
        bundle: str,
        *,
        pidfd: int,
        client: Client,
        private: PrivateClient,
        died: Callable[[ShimTask], Awaitable[TaskExit]],
    ) -> None:
        self.namespace, self.container_id, self.bundle = namespace, container_id, bundle
        self.pid = 0
        self._client, self._private, self._died = client, private, died
        self._pidfd = pidfd
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._deleted = False
        self._closed = False
        self._after: asyncio.Task[TaskExit] | None = None
        self.gone: Callable[[ShimTask], None] = lambda _: None
        loop.add_reader(pidfd, self._shim_ended)

    def _shim_ended(self) -> None:
        self._drop_pidfd()
        if not self.ended.done():
            self.ended.set_result(None)
        if not self._deleted and not self._closed:
            self._after = asyncio.ensure_future(self._died(self))

    def _drop_pidfd(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    async def _call(self, method: str, request: Message, answer: type[Any] = Empty) -> Any:
        return await self._client.call(pb.SERVICE, method, request, answer)

    async def create(self, request: pb.CreateTaskRequest) -> None:
        self.pid = (await self._call("Create", request, pb.PidResponse)).pid

    async def reconnect(self) -> None:
        """Learn the pid of a task that lives."""
        self.pid = (await self._call("Connect", pb.IDRequest(id=self.container_id), pb.ConnectResponse)).task_pid

    async def start(self) -> int:
        started: pb.PidResponse = await self._call("Start", pb.ExecIDRequest(id=self.container_id), pb.PidResponse)
        return started.pid

    async def wait(self, exec_id: str = "") -> TaskExit:
        request = pb.ExecIDRequest(id=self.container_id, exec_id=exec_id)
        try:
            answer: pb.WaitResponse = await self._call("Wait", request, pb.WaitResponse)
        except Unavailable:
            if self._deleted or self._closed:
                raise
            await asyncio.wait_for(asyncio.shield(self.ended), _END_S)
            assert self._after is not None
            return await asyncio.shield(self._after)
        at = answer.exited_at.ns / 1e9 if answer.exited_at else 0.0
        recorded = None if exec_id else read_exit(self.bundle)
        return TaskExit(answer.exit_status, at, recorded.oom if recorded else False)

    async def state(self, exec_id: str = "") -> TaskState:
        request = pb.ExecIDRequest(id=self.container_id, exec_id=exec_id)
        s: pb.StateResponse = await self._call("State", request, pb.StateResponse)
        ended = None
        if s.status == STOPPED:
            recorded = None if exec_id else read_exit(self.bundle)
            ended = recorded or TaskExit(s.exit_status, s.exited_at.ns / 1e9 if s.exited_at else 0.0)
        return TaskState(STATUS_NAMES[s.status], s.pid, ended)

    async def kill(self, signal: int, *, exec_id: str = "", all_processes: bool = False) -> None:
        request = pb.KillRequest(id=self.container_id, exec_id=exec_id, signal=signal, all=all_processes)
        await self._call("Kill", request)

    async def pause(self) -> None:
        await self._call("Pause", pb.IDRequest(id=self.container_id))

    async def resume(self) -> None:
        await self._call("Resume", pb.IDRequest(id=self.container_id))

    async def resize(self, width: int, height: int, *, exec_id: str = "") -> None:
        request = pb.ResizePtyRequest(id=self.container_id, exec_id=exec_id, width=width, height=height)
        await self._call("ResizePty", request)

    async def close_stdin(self, *, exec_id: str = "") -> None:
        await self._call("CloseIO", pb.CloseIORequest(id=self.container_id, exec_id=exec_id, stdin=True))

    async def update(self, resources_json: bytes) -> None:
        resources = PbAny(type_url=RESOURCES_URL, value=resources_json)
        await self._call("Update", pb.UpdateTaskRequest(id=self.container_id, resources=resources))

    async def pids(self) -> list[int]:
        answer: pb.PidsResponse = await self._call("Pids", pb.IDRequest(id=self.container_id), pb.PidsResponse)
        return [p.pid for p in answer.processes]

    async def stats(self) -> dict[str, int | list[tuple[int, int, str, int]]]:
        stats: dict[str, int | list[tuple[int, int, str, int]]] = await self._private.call({"op": "stats"})
        return stats

    async def exec_create(
        self,
        exec_id: str,
        process_json: bytes,
        *,
        terminal: bool,
        stdin_open: bool,
        attach: Sequence[AttachRequest] = (),
    ) -> None:
        document = exec_document(exec_id, process_json, terminal=terminal, stdin_open=stdin_open, attach=attach)
        await self._private.call(document, [a.sock_fd for a in attach])

    async def exec_start(self, exec_id: str) -> int:
        request = pb.ExecIDRequest(id=self.container_id, exec_id=exec_id)
        started: pb.PidResponse = await self._call("Start", request, pb.PidResponse)
        return started.pid

    async def exec_delete(self, exec_id: str) -> None:
        await self._call("Delete", pb.ExecIDRequest(id=self.container_id, exec_id=exec_id), pb.DeleteResponse)

    async def attach(self, request: AttachRequest, *, exec_id: str = "") -> None:
        document = {"op": "attach", "exec_id": exec_id, **attach_document(request)}
        await self._private.call(document, [request.sock_fd])

    async def logs(self, request: LogsRequest) -> None:
        await self._private.call({"op": "logs", **logs_document(request)}, [request.sock_fd])

    async def delete(self) -> TaskExit:
        self._deleted = True
        try:
            answer = await self._private.call({"op": "delete"})
        except BaseException:
            self._deleted = False
            raise
        self.close()
        self.gone(self)
        return TaskExit(answer["exit_status"], answer["exited_at_s"], answer["oom"])

    async def abandon(self) -> None:
        """After a Create that failed: the shim ends when nobody holds its connections."""
        if sys.platform == "win32":
            raise NotImplementedError
        self._deleted = True
        self._client.close()
        self._private.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.ended), _END_S)
        if not self.ended.done():
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """Let go; the shim lives on unless it was told to end."""
        self._closed = True
        self._client.close()
        self._private.close()
        self._drop_pidfd()


def read_exit(bundle: str) -> TaskExit | None:
    """The exit record of a bundle (decisions 3), None where there is none."""
    try:
        with open(f"{bundle}/exit.json", "rb") as f:
            document = json.loads(f.read())
    except FileNotFoundError:
        return None
    return TaskExit(document["exit_status"], document["exited_at_s"], document["oom"])
