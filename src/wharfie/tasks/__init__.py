# SPDX-License-Identifier: Apache-2.0
"""Tasks: the only way the daemon and the builder start anything (decisions 1).

`tasks.zygote.Zygote` is the client of the zygote process: it forks named entries (`shim`, `unpack`).
`tasks.shim.ShimClient` speaks containerd's task API v2 over ttrpc to one shim, ours or anybody's, on asyncio.
`tasks.manager.TaskManager` puts both together and finds shims again after a restart.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from wharfie.mount import Mount

OWN_RUNTIME = "io.wharfie.linux.v1"
"""Runtime name of our own engine in our own shim."""


class TaskExit(NamedTuple):
    """How a process ended. `exited_at_s` is the shim's clock (UTC seconds). `oom`: an OOM kill was seen."""

    exit_status: int
    exited_at_s: float
    oom: bool = False


class TaskState(NamedTuple):
    """`status`: created running paused stopped. `stdin`, `terminal` as created."""

    status: str
    pid: int
    exit: TaskExit | None


class LogConfig(NamedTuple):
    """Where the shim writes a container's output. `driver`: local (chunked), json-file, none, or a binary URI.

    `path` is the log directory (local) or file (json-file).
    """

    driver: str
    path: str
    max_size_bytes: int = 0
    max_files: int = 1


class AttachRequest(NamedTuple):
    """A client's socket, handed to the shim (decisions 2): bytes never pass the daemon again.

    `sock_fd` is duplicated by the callee's transport. `head` are bytes the client sent behind its request.
    `multiplexed`: Docker's 8-byte stdcopy frames (no TTY). `detach_keys`: raw bytes, empty for none.
    `replay_logs`: first the log so far (attach with logs=1), without a gap or a double line.
    The HTTP answer's head (101 UPGRADED or 200) has been written by the caller already.
    """

    sock_fd: int
    stdin: bool
    stdout: bool
    stderr: bool
    multiplexed: bool
    head: bytes = b""
    detach_keys: bytes = b""
    replay_logs: bool = False


class LogsRequest(NamedTuple):
    """A client's socket for `logs -f`, handed to the shim like an attach. Times in UTC seconds, None for no bound.

    `tail`: last n lines, None for all. `timestamps`: RFC 3339 with nanoseconds before each line.
    """

    sock_fd: int
    stdout: bool
    stderr: bool
    multiplexed: bool
    follow: bool = True
    since_s: float | None = None
    until_s: float | None = None
    timestamps: bool = False
    tail: int | None = None
    details: str = ""


class CreateRequest(NamedTuple):
    """What a task needs. The bundle directory holds config.json; the daemon has written it.

    `runtime`: "io.wharfie.linux.v1" (ours), "io.containerd.runc.v2", or the path or name of an OCI runtime (crun).
    Our shim writes `<bundle>/exit.json` at exit (decisions 3): {"exit_status":0,"exited_at_s":…,"oom":false,"pid":…}.
    `attach`: client sockets parked before start. `exit_durable`: the exit record is synced to the disk before the exit
    is told; without, it outlives every process, but not a power cut.
    """

    namespace: str
    container_id: str
    bundle: str
    rootfs: Sequence[Mount]
    terminal: bool
    stdin_open: bool
    log: LogConfig
    runtime: str = OWN_RUNTIME
    runtime_options: dict[str, str] = {}  # noqa: RUF012
    attach: Sequence[AttachRequest] = ()
    stdin_once: bool = False
    exit_durable: bool = True


class Task(Protocol):
    """One running container, all methods asyncio."""

    namespace: str
    container_id: str
    pid: int

    async def start(self) -> int:
        """Run the user's program; returns its pid. Errors keep their class (NotFound: 127, PermissionDenied: 126)."""

    async def wait(self, exec_id: str = "") -> TaskExit: ...
    async def state(self, exec_id: str = "") -> TaskState: ...
    async def kill(self, signal: int, *, exec_id: str = "", all_processes: bool = False) -> None: ...
    async def pause(self) -> None: ...
    async def resume(self) -> None: ...
    async def resize(self, width: int, height: int, *, exec_id: str = "") -> None: ...
    async def close_stdin(self, *, exec_id: str = "") -> None: ...
    async def update(self, resources_json: bytes) -> None: ...
    async def pids(self) -> list[int]: ...
    async def stats(self) -> dict[str, int | list[tuple[int, int, str, int]]]:
        """Fields of `runtime.Stats` but raw."""

    async def exec_create(
        self,
        exec_id: str,
        process_json: bytes,
        *,
        terminal: bool,
        stdin_open: bool,
        attach: Sequence[AttachRequest] = (),
    ) -> None: ...
    async def exec_start(self, exec_id: str) -> int: ...
    async def exec_delete(self, exec_id: str) -> None: ...
    async def attach(self, request: AttachRequest, *, exec_id: str = "") -> None: ...
    async def logs(self, request: LogsRequest) -> None: ...
    async def delete(self) -> TaskExit:
        """Release everything; the shim ends. The bundle directory stays (it is the caller's)."""


class TaskManager(Protocol):
    async def open(self) -> None:
        """Start the zygote and reconnect to the shims below `<state>/shims`."""

    async def create(self, request: CreateRequest) -> Task: ...
    async def recover(self, namespace: str, container_id: str) -> Task | None:
        """The task of a live shim, or None where the shim is gone (its exit is in exit.json, or it was killed).

        A dead shim's leftovers (container processes, cgroup, mounts, run directory) are removed before None comes back.
        """

    async def unpack(
        self, snapshotter: str, stream_fd: int, *, compression: str, diff_id: str, max_size_bytes: int | None = None
    ) -> bytes:
        """Run `Snapshotter.ingest` on stream_fd in a worker process; JSON of LayerInfo, or its error raised here."""

    async def worker(self, entry: str, args: bytes, fds: Sequence[int] = ()) -> bytes:
        """Fork the zygote's named entry `entry` (table `zygote/entries.py`, text "module:function"), run it to its end.

        The function gets (args, fds) in a process of its own and returns bytes, which come back; a WharfieError that it
        raises is raised here. Cancelling kills the process. The way to do anything that must enter a container's
        namespaces (cp, top) or hold the GIL.
        """

    async def close(self) -> None:
        """Let go of all: shims live on."""


SupervisorDied = Callable[[str, str], Awaitable[None]]
"""Called with (namespace, container_id) when a shim is seen dead without an exit record: exit 137."""
