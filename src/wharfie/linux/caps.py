# SPDX-License-Identifier: Apache-2.0
"""Capability sets as bit masks."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from wharfie.linux.libc import syscall

# linux/capability.h, in the order of their numbers
NAMES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip
NUMBER = {name: n for n, name in enumerate(NAMES)}
SETPCAP = 1 << NUMBER["CAP_SETPCAP"]
SYS_ADMIN = 1 << NUMBER["CAP_SYS_ADMIN"]

_VERSION_3 = 0x20080522


def mask(names: Iterable[str]) -> int:
    """Bit mask of capability names (CAP_…, any case). Raises KeyError with the name."""
    bits = 0
    for name in names:
        bits |= 1 << NUMBER[name.upper()]
    return bits


def names(bits: int) -> list[str]:
    return [name for n, name in enumerate(NAMES) if bits >> n & 1]


def capset(effective: int, permitted: int, inheritable: int) -> None:
    header = struct.pack("Ii", _VERSION_3, 0)
    low = 0xFFFFFFFF
    data = struct.pack(
        "6I", effective & low, permitted & low, inheritable & low, effective >> 32, permitted >> 32, inheritable >> 32
    )
    syscall("capset", header, data, obj=f"permitted {permitted:#x}")


def permitted() -> int:
    """The caller's permitted set."""
    from ctypes import create_string_buffer

    data = create_string_buffer(24)
    syscall("capget", struct.pack("Ii", _VERSION_3, 0), data)
    fields = struct.unpack("6I", data.raw)
    return int(fields[1]) | int(fields[4]) << 32
