# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF012
"""containerd.events: what a shim tells about its tasks, each with its topic."""

from __future__ import annotations

from collections.abc import Sequence

from wharfie.spec.pb.base import Mount, Timestamp
from wharfie.spec.pb.codec import BOOL, STRING, UINT, Message, Repeated

_CONTAINER = {1: ("container_id", STRING)}


class TaskIO(Message):
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False
    FIELDS = {1: ("stdin", STRING), 2: ("stdout", STRING), 3: ("stderr", STRING), 4: ("terminal", BOOL)}


class TaskCreate(Message):
    container_id: str = ""
    bundle: str = ""
    rootfs: Sequence[Mount] = ()
    io: TaskIO | None = None
    checkpoint: str = ""
    pid: int = 0
    FIELDS = {
        1: ("container_id", STRING), 2: ("bundle", STRING), 3: ("rootfs", Repeated(Mount)), 4: ("io", TaskIO),
        5: ("checkpoint", STRING), 6: ("pid", UINT),
    }  # fmt: skip


class TaskStart(Message):
    container_id: str = ""
    pid: int = 0
    FIELDS = {**_CONTAINER, 2: ("pid", UINT)}


class TaskDelete(Message):
    container_id: str = ""
    pid: int = 0
    exit_status: int = 0
    exited_at: Timestamp | None = None
    id: str = ""
    FIELDS = {
        **_CONTAINER, 2: ("pid", UINT), 3: ("exit_status", UINT), 4: ("exited_at", Timestamp), 5: ("id", STRING),
    }  # fmt: skip


class TaskExit(Message):
    """`id` is the exec id, or the container's id for its first process."""

    container_id: str = ""
    id: str = ""
    pid: int = 0
    exit_status: int = 0
    exited_at: Timestamp | None = None
    FIELDS = {
        **_CONTAINER, 2: ("id", STRING), 3: ("pid", UINT), 4: ("exit_status", UINT), 5: ("exited_at", Timestamp),
    }  # fmt: skip


class TaskOOM(Message):
    container_id: str = ""
    FIELDS = _CONTAINER


class TaskExecAdded(Message):
    container_id: str = ""
    exec_id: str = ""
    FIELDS = {**_CONTAINER, 2: ("exec_id", STRING)}


class TaskExecStarted(Message):
    container_id: str = ""
    exec_id: str = ""
    pid: int = 0
    FIELDS = {**_CONTAINER, 2: ("exec_id", STRING), 3: ("pid", UINT)}


class TaskPaused(Message):
    container_id: str = ""
    FIELDS = _CONTAINER


class TaskResumed(Message):
    container_id: str = ""
    FIELDS = _CONTAINER


class TaskCheckpointed(Message):
    container_id: str = ""
    checkpoint: str = ""
    FIELDS = {**_CONTAINER, 2: ("checkpoint", STRING)}


TOPICS: dict[type[Message], str] = {
    TaskCreate: "/tasks/create",
    TaskStart: "/tasks/start",
    TaskDelete: "/tasks/delete",
    TaskExit: "/tasks/exit",
    TaskOOM: "/tasks/oom",
    TaskExecAdded: "/tasks/exec-added",
    TaskExecStarted: "/tasks/exec-started",
    TaskPaused: "/tasks/paused",
    TaskResumed: "/tasks/resumed",
    TaskCheckpointed: "/tasks/checkpointed",
}


def type_url(event: Message) -> str:
    return f"containerd.events.{type(event).__name__}"
