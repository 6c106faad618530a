# SPDX-License-Identifier: Apache-2.0
"""A process document, checked and turned into numbers before anything is forked. Pure."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import signal
from typing import NamedTuple

from wharfie.errdefs import InvalidArgument, Unsupported
from wharfie.linux import caps
from wharfie.spec.runtime import Box, Process

# asm-generic/resource.h
RLIMITS = {
    "RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4, "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}  # fmt: skip
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_SCHED = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
_SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}  # fmt: skip
_MAX_ID = 2**31 - 1
"""Beyond it some kernel interfaces wrap around (CVE-2024-40635)."""
CATCHABLE = [s for s in range(1, signal.NSIG) if s not in {signal.SIGKILL, signal.SIGSTOP, 32, 33}]


class CapabilitySets(NamedTuple):
    bounding: int = 0
    effective: int = 0
    inheritable: int = 0
    permitted: int = 0
    ambient: int = 0


class Scheduling(NamedTuple):
    policy: int
    flags: int
    nice: int
    priority: int
    runtime: int
    deadline: int
    period: int


class ProcessPlan(NamedTuple):
    """What a child needs between its birth and execve. Nothing in here needs an import to use."""

    args: list[bytes]
    env: dict[bytes, bytes]
    cwd: str
    uid: int
    gid: int
    groups: list[int]
    umask: int | None
    terminal: bool
    console_size: Box | None
    caps: CapabilitySets
    rlimits: list[tuple[int, int, int, str]]
    no_new_privileges: bool
    seccomp: bytes
    seccomp_flags: int
    apparmor_profile: str
    selinux_label: str
    oom_score_adj: int | None
    io_priority: tuple[int, int] | None
    scheduling: Scheduling | None
    cpus: frozenset[int]


def parse_cpu_list(text: str) -> frozenset[int]:
    """`0-3,7` -> {0, 1, 2, 3, 7}. Raises InvalidArgument."""
    cpus: set[int] = set()
    try:
        for part in filter(None, text.split(",")):
            first, dash, last = part.partition("-")
            cpus.update(range(int(first), int(last if dash else first) + 1))
    except ValueError:
        raise InvalidArgument(f"read list of CPUs `{text}`: not numbers and ranges") from None
    return frozenset(cpus)


def _capabilities(process: Process) -> CapabilitySets:
    c = process.capabilities
    if c is None:
        return CapabilitySets()
    try:
        return CapabilitySets(*(caps.mask(s) for s in (c.bounding, c.effective, c.inheritable, c.permitted, c.ambient)))
    except KeyError as e:
        raise InvalidArgument(f"read capabilities: unknown capability `{e.args[0]}`") from None


def _rlimits(process: Process) -> list[tuple[int, int, int, str]]:
    found: list[tuple[int, int, int, str]] = []
    for r in process.rlimits:
        number = RLIMITS.get(r.type)
        if number is None:
            raise InvalidArgument(f"read rlimits: unknown limit `{r.type}`")
        if any(f[3] == r.type for f in found):
            raise InvalidArgument(f"read rlimits: `{r.type}` is there twice")
        found.append((number, r.soft, r.hard, r.type))
    return found


def _env(process: Process) -> dict[bytes, bytes]:
    env: dict[bytes, bytes] = {}
    for item in process.env:
        name, equals, value = item.partition("=")
        if not equals or not name or "\0" in item:
            raise InvalidArgument(f"read environment: `{name}` is not NAME=VALUE")
        env[name.encode(errors="surrogateescape")] = value.encode(errors="surrogateescape")
    return env


def _scheduling(process: Process) -> Scheduling | None:
    s = process.scheduler
    if s is None:
        return None
    if s.policy not in _SCHED:
        raise InvalidArgument(f"read scheduler: unknown policy `{s.policy}`")
    flags = 0
    for flag in s.flags:
        if flag not in _SCHED_FLAGS:
            raise InvalidArgument(f"read scheduler: unknown flag `{flag}`")
        flags |= _SCHED_FLAGS[flag]
    return Scheduling(_SCHED[s.policy], flags, s.nice, s.priority, s.runtime, s.deadline, s.period)


def plan_process(process: Process, *, seccomp: bytes = b"", seccomp_flags: int = 0) -> ProcessPlan:
    """Check a process document. Raises InvalidArgument naming the field, Unsupported."""
    if not process.args:
        raise InvalidArgument("read process: args is empty")
    if not process.cwd.startswith("/"):
        raise InvalidArgument(f"read process: cwd `{process.cwd}` is not absolute")
    user = process.user
    for number in (user.uid, user.gid, *user.additional_gids):
        if not 0 <= number <= _MAX_ID:
            raise InvalidArgument(f"read process: user or group id {number} is out of range 0–{_MAX_ID}")
    if any("\0" in a for a in process.args) or "\0" in process.cwd:
        raise InvalidArgument("read process: NUL byte in args or cwd")
    io_priority = None
    if process.io_priority is not None:
        if process.io_priority.class_ not in _IO_CLASSES or not 0 <= process.io_priority.priority <= 7:
            raise InvalidArgument(f"read ioPriority: `{process.io_priority.class_}` {process.io_priority.priority}")
        io_priority = (_IO_CLASSES[process.io_priority.class_], process.io_priority.priority)
    cpus: frozenset[int] = frozenset()
    if process.exec_cpu_affinity is not None:
        cpus = parse_cpu_list(process.exec_cpu_affinity.final or process.exec_cpu_affinity.initial)
    if process.command_line:
        raise Unsupported("read process: commandLine is for Windows")
    return ProcessPlan(
        args=[a.encode(errors="surrogateescape") for a in process.args],
        env=_env(process),
        cwd=process.cwd,
        uid=user.uid,
        gid=user.gid,
        groups=list(user.additional_gids),
        umask=user.umask,
        terminal=process.terminal,
        console_size=process.console_size,
        caps=_capabilities(process),
        rlimits=_rlimits(process),
        no_new_privileges=process.no_new_privileges,
        seccomp=seccomp,
        seccomp_flags=seccomp_flags,
        apparmor_profile=process.apparmor_profile,
        selinux_label=process.selinux_label,
        oom_score_adj=process.oom_score_adj,
        io_priority=io_priority,
        scheduling=_scheduling(process),
        cpus=cpus,
    )
