# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF012
"""io.containerd.cgroups.v1.Metrics, the fields that are filled here."""

from __future__ import annotations

from collections.abc import Sequence

from wharfie.spec.pb.codec import STRING, UINT, UINTS, Message, Repeated


class PidsStat(Message):
    current: int = 0
    limit: int = 0
    FIELDS = {1: ("current", UINT), 2: ("limit", UINT)}


class CPUUsage(Message):
    total: int = 0
    kernel: int = 0
    user: int = 0
    per_cpu: Sequence[int] = ()
    FIELDS = {1: ("total", UINT), 2: ("kernel", UINT), 3: ("user", UINT), 4: ("per_cpu", UINTS)}


class Throttle(Message):
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0
    FIELDS = {1: ("periods", UINT), 2: ("throttled_periods", UINT), 3: ("throttled_time", UINT)}


class CPUStat(Message):
    usage: CPUUsage | None = None
    throttling: Throttle | None = None
    FIELDS = {1: ("usage", CPUUsage), 2: ("throttling", Throttle)}


class MemoryEntry(Message):
    limit: int = 0
    usage: int = 0
    max: int = 0
    failcnt: int = 0
    FIELDS = {1: ("limit", UINT), 2: ("usage", UINT), 3: ("max", UINT), 4: ("failcnt", UINT)}


class MemoryStat(Message):
    cache: int = 0
    usage: MemoryEntry | None = None
    swap: MemoryEntry | None = None
    FIELDS = {1: ("cache", UINT), 33: ("usage", MemoryEntry), 34: ("swap", MemoryEntry)}


class BlkIOEntry(Message):
    op: str = ""
    device: str = ""
    major: int = 0
    minor: int = 0
    value: int = 0
    FIELDS = {1: ("op", STRING), 2: ("device", STRING), 3: ("major", UINT), 4: ("minor", UINT), 5: ("value", UINT)}


class BlkIOStat(Message):
    io_service_bytes_recursive: Sequence[BlkIOEntry] = ()
    FIELDS = {1: ("io_service_bytes_recursive", Repeated(BlkIOEntry))}


class Metrics(Message):
    pids: PidsStat | None = None
    cpu: CPUStat | None = None
    memory: MemoryStat | None = None
    blkio: BlkIOStat | None = None
    FIELDS = {2: ("pids", PidsStat), 3: ("cpu", CPUStat), 4: ("memory", MemoryStat), 5: ("blkio", BlkIOStat)}
