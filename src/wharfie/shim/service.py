# SPDX-License-Identifier: Apache-2.0
"""The task service: containerd.task.v2.Task over ttrpc, as views of a `Container`."""

from __future__ import annotations

import os
import sys
import traceback

assert sys.platform == "linux"  # type checkers of other platforms look no further

import msgspec

from wharfie import errdefs
from wharfie.errdefs import Unsupported, WharfieError
from wharfie.mount import Mount
from wharfie.shim import stdio_uris
from wharfie.shim.metrics import metrics
from wharfie.shim.process import Process, StdioURIs
from wharfie.shim.streams import Streams
from wharfie.spec.pb import task
from wharfie.spec.pb.base import Empty, ProcessInfo, Timestamp
from wharfie.spec.runtime import Resources, decode_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wharfie.rpc.server import Call
    from wharfie.runtime.linux import checkpoint as checkpoints
    from wharfie.shim.container import Container
    from wharfie.spec.pb.codec import Message

    Handler = Callable[["TaskService", Any, Call], Message | None]


class TaskService:
    """`shut_down` is called on Shutdown. `prepared` is the first process where its stdio was set up beforehand."""

    def __init__(
        self,
        container: Container,
        shut_down: Callable[[], None],
        *,
        runtime: str = "",
        options: dict[str, str] | None = None,
    ) -> None:
        self.container, self._shut_down = container, shut_down
        self._runtime, self._options = runtime, options or {}
        self.prepared: Process | None = None

    def handle(self, call: Call) -> None:
        row = _METHODS.get(call.method) if call.service == task.SERVICE else None
        try:
            if row is None:
                raise Unsupported(f"call {call.service}/{call.method}: this shim has no such method")
            request = row[0].decode(call.payload)
            answer = row[1](self, request, call)
        except (WharfieError, OSError) as e:
            call.fail(_refine(e))
        except Exception as e:
            traceback.print_exc(file=sys.stderr)
            call.fail(e)
        else:
            if answer is not None:
                call.reply(answer)

    def create(self, request: task.CreateTaskRequest, call: Call) -> Message:
        container = self.container
        process, self.prepared = self.prepared, None
        if process is None:
            process = self._process("", request)
        runtime, options, criu = self._runtime, dict(self._options), ""
        if request.options is not None and request.options.type_url.endswith("containerd.runc.v1.Options"):
            runc = task.RuncOptions.decode(request.options.value)
            criu = runc.criu_path
            if runc.binary_name:
                runtime = runc.binary_name
            if runc.root:
                options["root"] = runc.root
            for name, wanted in (
                ("no_pivot", runc.no_pivot_root),
                ("no_new_keyring", runc.no_new_keyring),
                ("systemd_cgroup", runc.systemd_cgroup),
            ):
                if wanted:
                    options[name] = "true"
        mounts = [Mount(m.type, m.source, m.target, tuple(m.options)) for m in request.rootfs]
        try:
            checkpoint = self._restored(request, criu) if request.checkpoint else None
            pid = container.create(process, request.bundle, mounts, runtime, options, checkpoint=checkpoint)
        except BaseException:
            process.close()
            raise
        return task.PidResponse(pid=pid)

    def _process(self, exec_id: str, request: task.CreateTaskRequest | task.ExecProcessRequest) -> Process:
        """A process with the stdio that a caller of the standard asks for."""
        uris = StdioURIs(request.stdin, request.stdout, request.stderr)
        streams = Streams(self.container.loop, stdin_once=False)
        stdio_uris.connect(
            streams,
            uris,
            terminal=request.terminal,
            namespace=self.container.namespace,
            container_id=self.container.container_id,
        )
        return Process(exec_id, streams, terminal=request.terminal, stdin_open=bool(uris.stdin), uris=uris)

    def start(self, request: task.ExecIDRequest, call: Call) -> Message:
        return task.PidResponse(pid=self.container.start(request.exec_id))

    def exec(self, request: task.ExecProcessRequest, call: Call) -> Message:
        if request.spec is None:
            raise errdefs.InvalidArgument("exec: no process document")
        process = self._process(request.exec_id, request)
        try:
            process.spec = decode_process(request.spec.value)
            process.spec.terminal = request.terminal
            self.container.add_exec(process)
        except BaseException:
            process.close()
            raise
        return Empty()

    def state(self, request: task.ExecIDRequest, call: Call) -> Message:
        p = self.container.process(request.exec_id)
        return task.StateResponse(
            id=request.id,
            bundle=self.container.bundle,
            pid=p.pid,
            status=p.status,
            stdin=p.uris.stdin,
            stdout=p.uris.stdout,
            stderr=p.uris.stderr,
            terminal=p.terminal,
            exit_status=p.exit_status,
            exited_at=Timestamp.at(p.exited_ns),
            exec_id=request.exec_id,
        )

    def wait(self, request: task.ExecIDRequest, call: Call) -> Message | None:
        process = self.container.process(request.exec_id)

        def answer() -> Message:
            return task.WaitResponse(exit_status=process.exit_status, exited_at=Timestamp.at(process.exited_ns))

        if process.ended:
            return answer()
        process.waiting.append(lambda: call.reply(answer()))
        return None

    def delete(self, request: task.ExecIDRequest, call: Call) -> Message:
        p = self.container.delete(request.exec_id)
        return task.DeleteResponse(pid=p.pid, exit_status=p.exit_status, exited_at=Timestamp.at(p.exited_ns))

    def pids(self, request: task.IDRequest, call: Call) -> Message:
        self.container.process("")
        return task.PidsResponse(processes=[ProcessInfo(pid=pid) for pid in self.container.engine.pids()])

    def pause(self, request: task.IDRequest, call: Call) -> Message:
        self.container.pause()
        return Empty()

    def resume(self, request: task.IDRequest, call: Call) -> Message:
        self.container.resume()
        return Empty()

    def kill(self, request: task.KillRequest, call: Call) -> Message:
        self.container.kill(request.signal, request.exec_id, all_processes=request.all)
        return Empty()

    def resize(self, request: task.ResizePtyRequest, call: Call) -> Message:
        self.container.process(request.exec_id).streams.resize(request.width, request.height)
        return Empty()

    def close_io(self, request: task.CloseIORequest, call: Call) -> Message:
        if request.stdin:
            self.container.process(request.exec_id).streams.close_stdin()
        return Empty()

    def update(self, request: task.UpdateTaskRequest, call: Call) -> Message:
        if request.resources is not None:
            self.container.engine.update(decode_resources(request.resources.value))
        return Empty()

    def stats(self, request: task.IDRequest, call: Call) -> Message:
        self.container.process("")
        return task.StatsResponse(stats=metrics(self.container.engine.stats()))

    def connect(self, request: task.IDRequest, call: Call) -> Message:
        init = self.container.init
        return task.ConnectResponse(shim_pid=os.getpid(), task_pid=init.pid if init else 0, version="v2")

    @staticmethod
    def _restored(request: task.CreateTaskRequest, criu: str) -> checkpoints.Request:
        from wharfie.runtime.linux.checkpoint import Request

        # Its connections come back where the checkpoint has some; criu's log stays with the bundle.
        return Request(
            request.checkpoint,
            work_path=f"{request.bundle}/criu",
            program=criu,
            tcp_established=True,
            ext_unix_sk=True,
            file_locks=True,
        )

    def checkpoint(self, request: task.CheckpointTaskRequest, call: Call) -> Message:
        from wharfie.runtime.linux.checkpoint import Request

        given = task.RuncCheckpointOptions()
        if request.options is not None and request.options.value:
            if not request.options.type_url.endswith("containerd.runc.v1.CheckpointOptions"):
                raise Unsupported(f"checkpoint task: options of type {request.options.type_url!r}")
            given = task.RuncCheckpointOptions.decode(request.options.value)
        if unknown := sorted(set(given.empty_namespaces) - {"network"}):
            raise Unsupported(f"checkpoint task: namespace {unknown[0]!r} cannot be left out")
        self.container.checkpoint(
            Request(
                request.path,
                work_path=given.work_path or f"{self.container.bundle}/criu",
                leave_running=not given.exit,
                tcp_established=given.open_tcp,
                ext_unix_sk=given.external_unix_sockets,
                shell_job=given.terminal,
                file_locks=given.file_locks,
                empty_network="network" in given.empty_namespaces,
                cgroup_mode=given.cgroups_mode or "soft",
            )
        )
        return Empty()

    def shutdown(self, request: task.ShutdownRequest, call: Call) -> Message:
        init = self.container.init
        if request.now or init is None or self.container.deleted:
            self.container.loop.call_soon(self._shut_down)
        return Empty()


def decode_resources(data: bytes) -> Resources:
    """The JSON of an update. Raises InvalidArgument."""
    try:
        return msgspec.json.decode(data, type=Resources)
    except (msgspec.DecodeError, msgspec.ValidationError) as e:
        raise errdefs.InvalidArgument(f"update container: read resources: {e}") from e


def _refine(error: Exception) -> BaseException:
    """A path that isn't there, or isn't allowed, keeps its class on the way out."""
    if isinstance(error, FileNotFoundError):
        return errdefs.NotFound(str(error))
    return error


_METHODS: dict[str, tuple[type[Message], Handler]] = {
    "Create": (task.CreateTaskRequest, TaskService.create),
    "Start": (task.ExecIDRequest, TaskService.start),
    "Exec": (task.ExecProcessRequest, TaskService.exec),
    "State": (task.ExecIDRequest, TaskService.state),
    "Wait": (task.ExecIDRequest, TaskService.wait),
    "Delete": (task.ExecIDRequest, TaskService.delete),
    "Pids": (task.IDRequest, TaskService.pids),
    "Pause": (task.IDRequest, TaskService.pause),
    "Resume": (task.IDRequest, TaskService.resume),
    "Kill": (task.KillRequest, TaskService.kill),
    "ResizePty": (task.ResizePtyRequest, TaskService.resize),
    "CloseIO": (task.CloseIORequest, TaskService.close_io),
    "Update": (task.UpdateTaskRequest, TaskService.update),
    "Stats": (task.IDRequest, TaskService.stats),
    "Connect": (task.IDRequest, TaskService.connect),
    "Checkpoint": (task.CheckpointTaskRequest, TaskService.checkpoint),
    "Shutdown": (task.ShutdownRequest, TaskService.shutdown),
}
