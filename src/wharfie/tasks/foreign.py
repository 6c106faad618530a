# SPDX-License-Identifier: Apache-2.0
"""A task under somebody else's shim (`io.containerd.runc.v2`), with a `stdio` process of ours beside it.

The shim is started and driven as containerd would; its stdio are fifos whose other ends the `stdio` process holds,
which writes the log and serves attach. Mounts are the shim's own work (`Mount` is plain mount(2)-able).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from wharfie.errdefs import InvalidArgument, Unavailable, Unsupported
from wharfie.spec.pb import metrics
from wharfie.spec.pb import task as pb
from wharfie.spec.pb.base import PROCESS_URL, Empty
from wharfie.spec.pb.base import Any as PbAny
from wharfie.spec.scope import is_scope
from wharfie.tasks import AttachRequest, CreateRequest, TaskExit
from wharfie.tasks.private import attach_document
from wharfie.tasks.shim import ShimTask


def shim_program(runtime: str) -> str | None:
    """Program of a containerd runtime name (`io.containerd.runc.v2` -> `containerd-shim-runc-v2`); None for others."""
    parts = runtime.split(".")
    if runtime.startswith("io.wharfie.") or "/" in runtime or len(parts) < 3:
        return None
    return f"containerd-shim-{parts[-2]}-{parts[-1]}"


def check_request(request: CreateRequest) -> None:
    """Refuse what such a shim would silently get wrong. Raises Unsupported."""
    for mount in request.rootfs:
        if any(o.startswith(("uidmap=", "gidmap=")) for o in mount.options):
            raise Unsupported(
                f"create task {request.container_id!r}: runtime {request.runtime!r} cannot id-map its root",
                hint="run it with --userns=host, or with the default runtime",
            )


def foreign_bundle(bundle: str, path: str) -> None:
    """A bundle directory for the shim alone: it wants a fifo `log` where ours keeps a directory.

    `path` is `<run directory>/<id>`: containerd's shims take the last part for the id.
    """
    if sys.platform == "win32":
        raise NotImplementedError
    os.makedirs(f"{path}/rootfs", mode=0o711)
    shutil.copy(f"{bundle}/config.json", f"{path}/config.json")
    os.mkfifo(f"{path}/log", 0o600)


def _in_scope(bundle: str) -> bool:
    """Whether the bundle's cgroupsPath is `slice:prefix:name`: such shims take the driver for an option of its own."""
    with open(f"{bundle}/config.json", "rb") as f:
        return is_scope(json.load(f).get("linux", {}).get("cgroupsPath", ""))


class ForeignTask(ShimTask):
    run = ""

    def fifo(self, exec_id: str, name: str, *, wanted: bool) -> str:
        return f"{self.run}/{exec_id or 'init'}-{name}" if wanted else ""

    async def create_from(self, request: CreateRequest, message: pb.CreateTaskRequest) -> None:
        message.stdin = self.fifo("", "stdin", wanted=request.stdin_open)
        message.stdout = self.fifo("", "stdout", wanted=True)
        message.stderr = self.fifo("", "stderr", wanted=not request.terminal)
        if unknown := set(request.runtime_options) - {"binary_name", "root"}:
            raise InvalidArgument(f"create task: runtime {request.runtime!r} has no option {min(unknown)!r}")
        in_scope = _in_scope(request.bundle)
        if request.runtime_options or in_scope:
            options = pb.RuncOptions(**request.runtime_options, systemd_cgroup=in_scope)
            message.options = PbAny(type_url="containerd.runc.v1.Options", value=options.encode())
        await self.create(message)

    async def exec_create(
        self,
        exec_id: str,
        process_json: bytes,
        *,
        terminal: bool,
        stdin_open: bool,
        attach: Sequence[AttachRequest] = (),
    ) -> None:
        document: dict[str, Any] = {
            "op": "exec", "exec_id": exec_id, "terminal": terminal, "stdin_open": stdin_open,
            "attach": [attach_document(a) for a in attach],
        }  # fmt: skip
        await self._private.call(document, [a.sock_fd for a in attach])
        request = pb.ExecProcessRequest(
            id=self.container_id,
            exec_id=exec_id,
            terminal=terminal,
            stdin=self.fifo(exec_id, "stdin", wanted=stdin_open),
            stdout=self.fifo(exec_id, "stdout", wanted=True),
            stderr=self.fifo(exec_id, "stderr", wanted=not terminal),
            spec=PbAny(type_url=PROCESS_URL, value=process_json),
        )
        try:
            await self._call("Exec", request)
        except BaseException:
            with contextlib.suppress(Unavailable):
                await self._private.call({"op": "exec_delete", "exec_id": exec_id})
            raise

    async def exec_delete(self, exec_id: str) -> None:
        await super().exec_delete(exec_id)
        await self._private.call({"op": "exec_delete", "exec_id": exec_id})

    async def close_stdin(self, *, exec_id: str = "") -> None:
        """The shim must see the end of the fifo, then hear that nothing more will come."""
        await self._private.call({"op": "close_stdin", "exec_id": exec_id})
        await super().close_stdin(exec_id=exec_id)

    async def stats(self) -> dict[str, int | list[tuple[int, int, str, int]]]:
        answer: pb.StatsResponse = await self._call("Stats", pb.IDRequest(id=self.container_id), pb.StatsResponse)
        if answer.stats is None or "cgroups.v1.Metrics" not in answer.stats.type_url:
            raise Unsupported("read stats: this shim's metrics are of another kind than cgroups.v1")
        m = metrics.Metrics.decode(answer.stats.value)
        cpu, memory, pids = m.cpu or metrics.CPUStat(), m.memory or metrics.MemoryStat(), m.pids or metrics.PidsStat()
        usage, throttling = cpu.usage or metrics.CPUUsage(), cpu.throttling or metrics.Throttle()
        used, swap = memory.usage or metrics.MemoryEntry(), memory.swap or metrics.MemoryEntry()
        return {
            "cpu_usage_ns": usage.total,
            "cpu_user_ns": usage.user,
            "cpu_kernel_ns": usage.kernel,
            "throttled_periods": throttling.throttled_periods,
            "throttled_ns": throttling.throttled_time,
            "periods": throttling.periods,
            "memory_usage_bytes": used.usage,
            "memory_limit_bytes": used.limit,
            "memory_cache_bytes": memory.cache,
            "swap_usage_bytes": max(swap.usage - used.usage, 0),
            "pids_current": pids.current,
            "pids_limit": pids.limit or -1,
            "oom_kills": 0,
            "blkio": [],
        }

    async def delete(self) -> TaskExit:
        self._deleted = True
        try:
            answer: pb.DeleteResponse = await self._call(
                "Delete", pb.ExecIDRequest(id=self.container_id), pb.DeleteResponse
            )
        except BaseException:
            self._deleted = False
            raise
        with contextlib.suppress(Unavailable):  # it may be gone before it answers
            await self._call("Shutdown", pb.ShutdownRequest(id=self.container_id), Empty)
        await self._end_stdio()
        self.close()
        self.gone(self)
        return TaskExit(answer.exit_status, answer.exited_at.ns / 1e9 if answer.exited_at else 0.0)

    async def _end_stdio(self) -> None:
        with contextlib.suppress(Unavailable):
            await self._private.call({"op": "delete"})

    async def abandon(self) -> None:
        self._deleted = True
        with contextlib.suppress(Unavailable):
            await self._call("Shutdown", pb.ShutdownRequest(id=self.container_id, now=True), Empty)
        await self._end_stdio()
        self.close()


def address_path(text: bytes) -> str:
    """Socket path of what a shim printed at `start`: an address, or (shim API 3) JSON with one."""
    words = text.decode(errors="replace").strip()
    if words.startswith("{"):
        words = json.loads(words)["address"]
    if not words.startswith("unix://"):
        raise Unavailable(f"start shim: it printed no address: {words!r}")
    return os.path.abspath(words.removeprefix("unix://"))
