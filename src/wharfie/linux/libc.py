# SPDX-License-Identifier: Apache-2.0
"""libc by ctypes: `syscall(name, …)` and the error that every wrapper raises."""

from __future__ import annotations

import ctypes
import os
import sys

# Numbers from asm/unistd_64.h and asm-generic/unistd.h; from 424 on all architectures agree.
_NEW = {
    "pidfd_send_signal": 424, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "pidfd_open": 434, "clone3": 435, "close_range": 436, "openat2": 437, "pidfd_getfd": 438,
    "mount_setattr": 442,
}  # fmt: skip
_OLD = {
    "x86_64": {
        "mount": 165, "umount2": 166, "pivot_root": 155, "unshare": 272, "setns": 308, "prctl": 157, "capget": 125,
        "capset": 126, "seccomp": 317, "bpf": 321, "setfsuid": 122, "setfsgid": 123, "personality": 135,
        "ioprio_set": 251, "sched_setattr": 314, "keyctl": 250, "setdomainname": 171, "sethostname": 170,
        "setresuid": 117, "setresgid": 119, "setgroups": 116, "execveat": 322, "renameat2": 316, "prlimit64": 302,
        "quotactl": 179, "eventfd2": 290, "name_to_handle_at": 303, "ioctl": 16,
    },
    "aarch64": {
        "mount": 40, "umount2": 39, "pivot_root": 41, "unshare": 97, "setns": 268, "prctl": 167, "capget": 90,
        "capset": 91, "seccomp": 277, "bpf": 280, "setfsuid": 151, "setfsgid": 152, "personality": 92,
        "ioprio_set": 30, "sched_setattr": 274, "keyctl": 219, "setdomainname": 162, "sethostname": 161,
        "setresuid": 147, "setresgid": 149, "setgroups": 159, "execveat": 281, "renameat2": 276, "prlimit64": 261,
        "quotactl": 60, "eventfd2": 19, "name_to_handle_at": 264, "ioctl": 29,
    },
}  # fmt: skip

if sys.platform == "linux":
    MACHINE = os.uname().machine
else:
    MACHINE = ""
NUMBERS: dict[str, int] = {**_NEW, **_OLD.get(MACHINE, {})}

Arg = int | bytes | None | ctypes.Array[ctypes.c_char] | ctypes.Structure

_libc: ctypes.CDLL | None = None


def libc() -> ctypes.CDLL:
    """The process's C library, loaded at the first call. PyDLL: calls keep the GIL, so a clone3 child owns it."""
    global _libc
    if _libc is None:
        _libc = ctypes.PyDLL(None, use_errno=True)
        _libc.syscall.restype = ctypes.c_long
    return _libc


def error(call: str, obj: object = "") -> OSError:
    """The OSError for the current errno: `call` is the system call, `obj` what it was done to."""
    number = ctypes.get_errno()
    text = f"{call}: {os.strerror(number)}"
    if obj == "":
        return OSError(number, text)
    return OSError(number, text, obj if isinstance(obj, (str, bytes)) else str(obj))


def syscall(name: str, *args: Arg, obj: object = "") -> int:
    """Raw system call; ints go as longs, bytes and buffers as pointers. Raises OSError naming `name` and `obj`."""
    number = NUMBERS.get(name)
    if number is None:
        raise OSError(38, f"{name}: not known on {MACHINE}")
    lib = _libc or libc()
    result = int(lib.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if type(a) is int else a for a in args]))
    if result == -1:
        raise error(name, obj)
    return result


def path_bytes(path: str | bytes) -> bytes:
    """A path as the kernel takes it. A NUL byte would silently shorten it: ValueError."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError(f"path has a NUL byte: {path!r}")
    return raw
