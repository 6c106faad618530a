# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF012
"""Shared messages: google.protobuf well-known types, containerd.types.Mount, containerd.v1.types process."""

from __future__ import annotations

from collections.abc import Sequence

from wharfie.spec.pb.codec import BYTES, INT, STRING, STRINGS, UINT, Message

UNKNOWN, CREATED, RUNNING, STOPPED, PAUSED, PAUSING = range(6)
STATUS_NAMES = ("unknown", "created", "running", "stopped", "paused", "pausing")
"""containerd.v1.types.Status"""

PROCESS_URL = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESOURCES_URL = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
"""Type URLs of JSON documents that travel in an Any."""


class Any(Message):
    type_url: str = ""
    value: bytes = b""
    FIELDS = {1: ("type_url", STRING), 2: ("value", BYTES)}


class Empty(Message):
    pass


class Timestamp(Message):
    seconds: int = 0
    nanos: int = 0
    FIELDS = {1: ("seconds", INT), 2: ("nanos", INT)}

    @classmethod
    def at(cls, time_ns: int) -> Timestamp:
        return cls(seconds=time_ns // 1_000_000_000, nanos=time_ns % 1_000_000_000)

    @property
    def ns(self) -> int:
        return self.seconds * 1_000_000_000 + self.nanos


class Mount(Message):
    type: str = ""
    source: str = ""
    target: str = ""
    options: Sequence[str] = ()
    FIELDS = {1: ("type", STRING), 2: ("source", STRING), 3: ("target", STRING), 4: ("options", STRINGS)}


class ProcessInfo(Message):
    pid: int = 0
    info: Any | None = None
    FIELDS = {1: ("pid", UINT), 2: ("info", Any)}
