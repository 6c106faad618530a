# SPDX-License-Identifier: Apache-2.0
"""Runtimes: a bundle goes in, processes come out. The contract that the shim drives.

Two engines: `runtime.linux` (ours, in the shim's own process) and `runtime.external` (any program with runc's command
line: runc, crun, wharfie-oci). A bundle is a directory with `config.json`; `rootfs` mounts come beside it because the
engine may assemble them without ever attaching them to the host (decisions 9).

Life: create (namespaces, cgroup, root are ready; the user's program has not run) -> start -> [exec]* -> exit ->
delete. The caller is the parent (or subreaper) of every process and reaps them; engines never wait for exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from wharfie.mount import Mount
from wharfie.spec.runtime import Process, Resources, Spec


class Stdio(NamedTuple):
    """Descriptors for a process; None is /dev/null. With a terminal, the pty's other end comes back in `Started`."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None


class Started(NamedTuple):
    """`pid` in the caller's pid namespace; `pidfd` is owned by the caller; `console` is the pty master or None."""

    pid: int
    pidfd: int
    console: int | None = None


class Stats(NamedTuple):
    """Resource use now, from the cgroup. Nanoseconds and bytes. `raw` holds controller files by name for details."""

    cpu_usage_ns: int
    cpu_user_ns: int
    cpu_kernel_ns: int
    throttled_periods: int
    throttled_ns: int
    periods: int
    memory_usage_bytes: int
    memory_limit_bytes: int
    memory_cache_bytes: int
    swap_usage_bytes: int
    pids_current: int
    pids_limit: int
    oom_kills: int
    blkio: tuple[tuple[int, int, str, int], ...] = ()
    """(major, minor, "read"|"write", bytes)"""
    raw: dict[str, Any] = {}  # noqa: RUF012


class Engine(Protocol):
    """One container. Blocking calls, all short. Errors name syscall and object, and leave nothing behind."""

    def create(self, container_id: str, bundle: str, spec: Spec, rootfs: Sequence[Mount], stdio: Stdio) -> Started:
        """Raises InvalidArgument (spec), FailedPrecondition (host cannot), NotFound (binary, code 127), PermissionDenied (126)."""

    def start(self) -> None:
        """Run the user's program. Raises NotFound / PermissionDenied for a binary that cannot be run."""

    def exec(self, exec_id: str, process: Process, stdio: Stdio) -> Started: ...

    def kill(self, signal: int, *, all_processes: bool = False) -> None:
        """Raises NotFound once the container has stopped."""

    def pids(self) -> list[int]: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def update(self, resources: Resources) -> None: ...

    def stats(self) -> Stats: ...

    def oom_fd(self) -> int | None:
        """A descriptor that becomes readable when an OOM kill may have happened; then look at stats().oom_kills."""

    def delete(self, *, force: bool = False) -> None:
        """Remove cgroup, mounts and state; run poststop hooks. Idempotent. With `force`, kill first."""
