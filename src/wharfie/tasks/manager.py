# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC230, ASYNC240 - a run directory is tmpfs: a thread would cost more than the call
"""The TaskManager: forks shims, finds them again, cleans up behind those that were killed.

`<state>/shims/<namespace>/<id>/` is a shim's run directory: `shim.json` (version, pid, start time), its two sockets
(`sockets`), `bundle` (path), `shim.log` (what it had to say on stderr).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence

from wharfie.errdefs import AlreadyExists, FailedPrecondition, Unavailable
from wharfie.rpc.client import connect
from wharfie.rpc.status import from_document
from wharfie.spec.pb import task as pb
from wharfie.spec.pb.base import Mount as PbMount
from wharfie.tasks import CreateRequest, SupervisorDied, TaskExit, sockets
from wharfie.tasks.foreign import ForeignTask, check_request, shim_program
from wharfie.tasks.foreign_start import ForeignStarter
from wharfie.tasks.private import PROTOCOL, shim_document
from wharfie.tasks.private_client import PrivateClient
from wharfie.tasks.shim import ShimTask, read_exit
from wharfie.tasks.zygote import Zygote

SUPERVISOR_DIED = 137


class Manager:
    """`root` and `state` are the engine's directories; `died` hears of shims that were killed."""

    def __init__(
        self, root: str, state: str, *, died: SupervisorDied | None = None, zygote: Zygote | None = None
    ) -> None:
        self._root, self._state, self._died = root, state, died
        self.zygote = zygote or Zygote(state)
        self._tasks: dict[tuple[str, str], ShimTask] = {}
        self._foreign = ForeignStarter(state, self.zygote, self.worker, self._shim_died)

    async def open(self) -> None:
        os.makedirs(f"{self._state}/shims", mode=0o700, exist_ok=True)
        self.zygote.start()

    def _run_directory(self, namespace: str, container_id: str) -> str:
        return f"{self._state}/shims/{namespace}/{container_id}"

    async def create(self, request: CreateRequest) -> ShimTask:
        run = self._run_directory(request.namespace, request.container_id)
        try:
            os.makedirs(run, mode=0o700)
        except FileExistsError:
            raise AlreadyExists(
                f"create task {request.container_id!r}: it has a shim", hint="recover or delete that first"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{request.bundle}/exit.json")
        program = shim_program(request.runtime)
        task: ShimTask
        try:
            if program is not None:
                check_request(request)
                task = await self._foreign.start(request, run, program)
            else:
                task = await self._fork_shim(request, run)
        except BaseException:
            shutil.rmtree(run, ignore_errors=True)
            raise
        try:
            if isinstance(task, ForeignTask):
                await task.create_from(request, _create_message(request, f"{run}/{request.container_id}"))
            else:
                await task.create(_create_message(request, request.bundle))
        except BaseException as e:
            await asyncio.shield(self._give_up(task, run))
            if isinstance(e, Unavailable):
                raise Unavailable(f"create task {request.container_id!r}: its shim was killed") from e
            raise
        self._keep(task)
        return task

    async def _give_up(self, task: ShimTask, run: str) -> None:
        """A create that failed leaves nothing; where the shim was killed, its half of the work is undone here."""
        await task.abandon()
        if os.path.exists(run):
            await self._sweep(task.namespace, task.container_id, run, task.bundle, record=False)

    async def _fork_shim(self, request: CreateRequest, run: str) -> ShimTask:
        if sys.platform == "win32":
            raise NotImplementedError
        with contextlib.ExitStack() as stack:
            with open(f"{run}/bundle", "w") as f:
                f.write(request.bundle)
            request = self._with_root(request, run)
            listeners = [
                stack.enter_context(sockets.listen(run, sockets.TTRPC, socket.SOCK_STREAM)),
                stack.enter_context(sockets.listen(run, sockets.PRIVATE, socket.SOCK_SEQPACKET)),
            ]
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours_private, theirs_private = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(theirs)
            stack.enter_context(theirs_private)
            failing = contextlib.ExitStack()
            failing.enter_context(ours)
            failing.enter_context(ours_private)
            with failing:
                fds = [s.fileno() for s in (*listeners, theirs, theirs_private)] + [a.sock_fd for a in request.attach]
                forked = await self.zygote.fork(
                    "shim",
                    json.dumps(shim_document(request, run)).encode(),
                    fds,
                    title=f"wharfie-shim -namespace {request.namespace} -id {request.container_id} {self._state}",
                    log=f"{run}/shim.log",
                )
                failing.pop_all()
        client = await connect(ours, request.namespace)
        private = PrivateClient(ours_private)
        return ShimTask(
            request.namespace,
            request.container_id,
            request.bundle,
            pidfd=forked.pidfd,
            client=client,
            private=private,
            died=self._shim_died,
        )

    def _keep(self, task: ShimTask) -> None:
        self._tasks[task.namespace, task.container_id] = task
        task.gone = self._forget

    def _forget(self, task: ShimTask) -> None:
        self._tasks.pop((task.namespace, task.container_id), None)

    def _with_root(self, request: CreateRequest, run: str) -> CreateRequest:
        """A runtime program keeps its state below ours; `<run>/runtime` tells a sweep where."""
        if request.runtime.startswith("io.wharfie."):
            return request
        root = request.runtime_options.get("root") or f"{self._state}/external/{request.namespace}"
        with open(f"{run}/runtime", "w") as f:
            json.dump({"program": request.runtime, "root": root}, f)
        return request._replace(runtime_options={**request.runtime_options, "root": root})

    async def recover(self, namespace: str, container_id: str) -> ShimTask | None:
        run = self._run_directory(namespace, container_id)
        task = self._tasks.get((namespace, container_id))
        if task is not None and not task.ended.done():
            return task
        try:
            with open(f"{run}/bundle") as f:
                bundle = f.read()
        except FileNotFoundError:
            shutil.rmtree(run, ignore_errors=True)
            return None
        pidfd = _live_shim(run)
        if pidfd >= 0:
            try:
                if os.path.exists(f"{run}/address"):
                    os.close(pidfd)
                    task = await self._foreign.reconnect(namespace, container_id, run, bundle)
                else:
                    task = await self._reconnect(namespace, container_id, run, bundle, pidfd)
            except (OSError, Unavailable):
                pass  # it ended between our look and our call
            else:
                self._keep(task)
                return task
        await self._sweep(namespace, container_id, run, bundle)
        return None

    async def _reconnect(self, namespace: str, container_id: str, run: str, bundle: str, pidfd: int) -> ShimTask:
        try:
            sock = sockets.connect(run, sockets.TTRPC, socket.SOCK_STREAM)
            try:
                private = PrivateClient(sockets.connect(run, sockets.PRIVATE, socket.SOCK_SEQPACKET))
            except BaseException:
                sock.close()
                raise
        except BaseException:
            os.close(pidfd)
            raise
        task = ShimTask(
            namespace,
            container_id,
            bundle,
            pidfd=pidfd,
            client=await connect(sock, namespace),
            private=private,
            died=self._shim_died,
        )
        try:
            await task.reconnect()
        except BaseException:
            task.close()
            raise
        return task

    # -- after a death

    async def _shim_died(self, task: ShimTask) -> TaskExit:
        self._forget(task)
        run = self._run_directory(task.namespace, task.container_id)
        await self._sweep(task.namespace, task.container_id, run, task.bundle)
        task.close()
        ended = read_exit(task.bundle) or TaskExit(SUPERVISOR_DIED, 0.0)
        if self._died is not None:
            await self._died(task.namespace, task.container_id)
        return ended

    async def _sweep(self, namespace: str, container_id: str, run: str, bundle: str, *, record: bool = True) -> None:
        """Kill what is left of the container, release what it held, write the exit record if the shim could not."""
        args = {
            "namespace": namespace, "id": container_id, "run": run, "bundle": bundle, "state": self._state,
            "record": record,
        }  # fmt: skip
        await self.worker("sweep", json.dumps(args).encode())

    # -- workers

    async def unpack(
        self, snapshotter: str, stream_fd: int, *, compression: str, diff_id: str, max_size_bytes: int | None = None
    ) -> bytes:
        args = {
            "snapshotter": snapshotter, "root": self._root, "state": self._state, "compression": compression,
            "diff_id": diff_id, "max_size_bytes": max_size_bytes,
        }  # fmt: skip
        return await self.worker("unpack", json.dumps(args).encode(), [stream_fd])

    async def worker(self, entry: str, args: bytes, fds: Sequence[int] = ()) -> bytes:
        if sys.platform == "win32":
            raise NotImplementedError
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writer, True)
        try:
            try:
                forked = await self.zygote.fork(
                    entry, args, [writer, *fds], title=f"wharfie-{entry} {self._state}", result=True
                )
            finally:
                os.close(writer)
            try:
                answer = await _read_all(reader)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(forked.pidfd, signal.SIGKILL)
                raise
            finally:
                os.close(forked.pidfd)
        finally:
            os.close(reader)
        if answer[:1] == b"+":
            return answer[1:]
        if answer[:1] == b"-":
            raise from_document(json.loads(answer[1:]))
        raise Unavailable(f"run worker {entry!r}: it was killed", hint="out of memory? see the kernel log")

    async def close(self) -> None:
        for task in self._tasks.values():
            task.close()
        self._tasks.clear()
        self._foreign.close()
        self.zygote.close()


async def _read_all(fd: int) -> bytes:
    """Everything up to the end of a non-blocking pipe."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    chunks: list[bytes] = []

    def readable() -> None:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return
        if data:
            chunks.append(data)
        elif not done.done():
            done.set_result(None)
            loop.remove_reader(fd)

    loop.add_reader(fd, readable)
    try:
        await done
    finally:
        loop.remove_reader(fd)
    return b"".join(chunks)


def _live_shim(run: str) -> int:
    """Pidfd of the shim of a run directory, -1 where it is gone."""
    if sys.platform == "win32":
        raise NotImplementedError
    try:
        with open(f"{run}/shim.json", "rb") as f:
            identity = json.loads(f.read())
        pidfd = os.pidfd_open(identity["pid"])
    except (FileNotFoundError, ProcessLookupError):
        return -1
    if identity["version"] > PROTOCOL:
        os.close(pidfd)
        raise FailedPrecondition(
            f"find shim {run!r}: it speaks version {identity['version']} of the private protocol, we know {PROTOCOL}",
            hint="a newer wharfied started it: run that one again, or stop the container with it",
        )
    try:
        with open(f"/proc/{identity['pid']}/stat", "rb") as f:
            fields = f.read().rpartition(b")")[2].split()
        alive = int(fields[19]) == identity["start_time"] and fields[0] not in (b"Z", b"X")
    except OSError:
        alive = False
    if not alive:
        os.close(pidfd)
        return -1
    return pidfd


def _create_message(request: CreateRequest, bundle: str) -> pb.CreateTaskRequest:
    mounts = [PbMount(type=m.type, source=m.source, target=m.target, options=list(m.options)) for m in request.rootfs]
    return pb.CreateTaskRequest(id=request.container_id, bundle=bundle, rootfs=mounts, terminal=request.terminal)
