# SPDX-License-Identifier: Apache-2.0
"""One process and what it may do: pidfd, prctl, close_range, personality, priorities, ids."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

from wharfie.linux.libc import NUMBERS, libc, syscall

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4
# linux/securebits.h
SECBIT_NO_SETUID_FIXUP = 1 << 2
# linux/close_range.h
CLOSE_RANGE_CLOEXEC = 4
PIDFD_NONBLOCK = 0o4000
# sys/personality.h
PER_LINUX = 0
PER_LINUX32 = 8
KEYCTL_JOIN_SESSION_KEYRING = 1
IOPRIO_WHO_PROCESS = 1


def prctl(option: int, arg2: int = 0, arg3: int = 0, obj: str = "") -> int:
    return syscall("prctl", option, arg2, arg3, 0, 0, obj=obj or f"option {option}")


def pidfd_open(pid: int, flags: int = 0) -> int:
    return syscall("pidfd_open", pid, flags, obj=pid)


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Raises ProcessLookupError once the process is reaped."""
    syscall("pidfd_send_signal", pidfd, signal, None, 0, obj=f"signal {signal}")


def pidfd_getfd(pidfd: int, number: int) -> int:
    """Duplicate of another process's descriptor, close-on-exec."""
    return syscall("pidfd_getfd", pidfd, number, 0, obj=f"descriptor {number}")


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    syscall("close_range", first, last, flags)


def personality(persona: int) -> int:
    return syscall("personality", persona, obj=f"{persona:#x}")


def setfsuid(uid: int) -> None:
    """Per thread, raw: libc's would do the same."""
    libc().syscall(ctypes.c_long(NUMBERS["setfsuid"]), ctypes.c_long(uid))


def setfsgid(gid: int) -> None:
    libc().syscall(ctypes.c_long(NUMBERS["setfsgid"]), ctypes.c_long(gid))


def set_ids(uid: int, gid: int, groups: Sequence[int] | None) -> None:
    """Group list (None leaves it), gid, uid of this thread; capabilities fall or stay as securebits say."""
    if groups is not None:
        raw = struct.pack(f"{len(groups)}I", *groups)
        syscall("setgroups", len(groups), raw, obj=list(groups))
    syscall("setresgid", gid, gid, gid, obj=gid)
    syscall("setresuid", uid, uid, uid, obj=uid)


def join_session_keyring(name: str) -> None:
    """A keyring of its own for a container, so that keys of the host's session are out of reach."""
    syscall("keyctl", KEYCTL_JOIN_SESSION_KEYRING, name.encode(), obj=name)


def ioprio_set(io_class: int, level: int) -> None:
    syscall("ioprio_set", IOPRIO_WHO_PROCESS, 0, io_class << 13 | level, obj=f"class {io_class} level {level}")


def sched_setattr(
    policy: int,
    *,
    flags: int = 0,
    nice: int = 0,
    priority: int = 0,
    runtime: int = 0,
    deadline: int = 0,
    period: int = 0,
) -> None:
    attr = struct.pack("IIQiIQQQ", 48, policy, flags, nice, priority, runtime, deadline, period)
    syscall("sched_setattr", 0, attr, 0, obj=f"policy {policy}")


def hard_limit(resource: int, pid: int = 0) -> int:
    """A process's hard limit; all bits set is infinity."""
    buffer = ctypes.create_string_buffer(16)
    syscall("prlimit64", pid, resource, None, buffer, obj=resource)
    return int(struct.unpack("QQ", buffer.raw)[1])


def prlimit(resource: int, soft: int, hard: int, obj: str = "", *, pid: int = 0) -> None:
    """Limits of a process; -1 is infinity."""
    limits = struct.pack("QQ", soft & 0xFFFFFFFFFFFFFFFF, hard & 0xFFFFFFFFFFFFFFFF)
    syscall("prlimit64", pid, resource, limits, None, obj=obj or resource)
