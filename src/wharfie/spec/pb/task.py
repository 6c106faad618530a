# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF012
"""containerd.task.v2.Task: the shim API."""

from __future__ import annotations

from collections.abc import Sequence

from wharfie.spec.pb.base import Any, Mount, ProcessInfo, Timestamp
from wharfie.spec.pb.codec import BOOL, STRING, STRING_MAP, STRINGS, UINT, Message, Repeated

SERVICE = "containerd.task.v2.Task"
_ID = {1: ("id", STRING)}
_ID_EXEC = {1: ("id", STRING), 2: ("exec_id", STRING)}


class IDRequest(Message):
    """Pids, Pause, Resume, Stats and Connect take just an id."""

    id: str = ""
    FIELDS = _ID


class ExecIDRequest(Message):
    """State, Start, Delete and Wait."""

    id: str = ""
    exec_id: str = ""
    FIELDS = _ID_EXEC


class CreateTaskRequest(Message):
    id: str = ""
    bundle: str = ""
    rootfs: Sequence[Mount] = ()
    terminal: bool = False
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    checkpoint: str = ""
    parent_checkpoint: str = ""
    options: Any | None = None
    FIELDS = {
        1: ("id", STRING), 2: ("bundle", STRING), 3: ("rootfs", Repeated(Mount)), 4: ("terminal", BOOL),
        5: ("stdin", STRING), 6: ("stdout", STRING), 7: ("stderr", STRING), 8: ("checkpoint", STRING),
        9: ("parent_checkpoint", STRING), 10: ("options", Any),
    }  # fmt: skip


class PidResponse(Message):
    """Create and Start."""

    pid: int = 0
    FIELDS = {1: ("pid", UINT)}


class DeleteResponse(Message):
    pid: int = 0
    exit_status: int = 0
    exited_at: Timestamp | None = None
    FIELDS = {1: ("pid", UINT), 2: ("exit_status", UINT), 3: ("exited_at", Timestamp)}


class ExecProcessRequest(Message):
    id: str = ""
    exec_id: str = ""
    terminal: bool = False
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    spec: Any | None = None
    FIELDS = {
        1: ("id", STRING), 2: ("exec_id", STRING), 3: ("terminal", BOOL), 4: ("stdin", STRING), 5: ("stdout", STRING),
        6: ("stderr", STRING), 7: ("spec", Any),
    }  # fmt: skip


class ResizePtyRequest(Message):
    id: str = ""
    exec_id: str = ""
    width: int = 0
    height: int = 0
    FIELDS = {**_ID_EXEC, 3: ("width", UINT), 4: ("height", UINT)}


class StateResponse(Message):
    id: str = ""
    bundle: str = ""
    pid: int = 0
    status: int = 0
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False
    exit_status: int = 0
    exited_at: Timestamp | None = None
    exec_id: str = ""
    FIELDS = {
        1: ("id", STRING), 2: ("bundle", STRING), 3: ("pid", UINT), 4: ("status", UINT), 5: ("stdin", STRING),
        6: ("stdout", STRING), 7: ("stderr", STRING), 8: ("terminal", BOOL), 9: ("exit_status", UINT),
        10: ("exited_at", Timestamp), 11: ("exec_id", STRING),
    }  # fmt: skip


class KillRequest(Message):
    id: str = ""
    exec_id: str = ""
    signal: int = 0
    all: bool = False
    FIELDS = {**_ID_EXEC, 3: ("signal", UINT), 4: ("all", BOOL)}


class CloseIORequest(Message):
    id: str = ""
    exec_id: str = ""
    stdin: bool = False
    FIELDS = {**_ID_EXEC, 3: ("stdin", BOOL)}


class PidsResponse(Message):
    processes: Sequence[ProcessInfo] = ()
    FIELDS = {1: ("processes", Repeated(ProcessInfo))}


class CheckpointTaskRequest(Message):
    id: str = ""
    path: str = ""
    options: Any | None = None
    FIELDS = {1: ("id", STRING), 2: ("path", STRING), 3: ("options", Any)}


class RuncCheckpointOptions(Message):
    """containerd.runc.v1.CheckpointOptions."""

    exit: bool = False
    open_tcp: bool = False
    external_unix_sockets: bool = False
    terminal: bool = False
    file_locks: bool = False
    empty_namespaces: Sequence[str] = ()
    cgroups_mode: str = ""
    image_path: str = ""
    work_path: str = ""
    FIELDS = {
        1: ("exit", BOOL), 2: ("open_tcp", BOOL), 3: ("external_unix_sockets", BOOL), 4: ("terminal", BOOL),
        5: ("file_locks", BOOL), 6: ("empty_namespaces", STRINGS), 7: ("cgroups_mode", STRING),
        8: ("image_path", STRING), 9: ("work_path", STRING),
    }  # fmt: skip


class UpdateTaskRequest(Message):
    id: str = ""
    resources: Any | None = None
    annotations: dict[str, str] = {}
    FIELDS = {1: ("id", STRING), 2: ("resources", Any), 3: ("annotations", STRING_MAP)}


class WaitResponse(Message):
    exit_status: int = 0
    exited_at: Timestamp | None = None
    FIELDS = {1: ("exit_status", UINT), 2: ("exited_at", Timestamp)}


class StatsResponse(Message):
    stats: Any | None = None
    FIELDS = {1: ("stats", Any)}


class ConnectResponse(Message):
    shim_pid: int = 0
    task_pid: int = 0
    version: str = ""
    FIELDS = {1: ("shim_pid", UINT), 2: ("task_pid", UINT), 3: ("version", STRING)}


class ShutdownRequest(Message):
    id: str = ""
    now: bool = False
    FIELDS = {1: ("id", STRING), 2: ("now", BOOL)}


class RuncOptions(Message):
    """containerd.runc.v1.Options; the fields that a runtime of ours can honour."""

    no_pivot_root: bool = False
    no_new_keyring: bool = False
    shim_cgroup: str = ""
    io_uid: int = 0
    io_gid: int = 0
    binary_name: str = ""
    root: str = ""
    criu_path: str = ""
    systemd_cgroup: bool = False
    FIELDS = {
        1: ("no_pivot_root", BOOL), 2: ("no_new_keyring", BOOL), 3: ("shim_cgroup", STRING), 4: ("io_uid", UINT),
        5: ("io_gid", UINT), 6: ("binary_name", STRING), 7: ("root", STRING), 8: ("criu_path", STRING),
        9: ("systemd_cgroup", BOOL),
    }  # fmt: skip
