# SPDX-License-Identifier: Apache-2.0
"""Namespaces: unshare, setns, clone3, id maps, and user namespaces by descriptor."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Sequence

from wharfie.linux.libc import libc, path_bytes, syscall
from wharfie.linux.openat2 import AT_FDCWD, O_RDONLY, O_WRONLY, openat2

# linux/sched.h
CLONE_NEWTIME = 0x80
CLONE_FS = 0x200
CLONE_PIDFD = 0x1000
CLONE_PARENT = 0x8000
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

FLAGS = {
    "cgroup": CLONE_NEWCGROUP,
    "ipc": CLONE_NEWIPC,
    "mount": CLONE_NEWNS,
    "network": CLONE_NEWNET,
    "pid": CLONE_NEWPID,
    "time": CLONE_NEWTIME,
    "user": CLONE_NEWUSER,
    "uts": CLONE_NEWUTS,
}
"""OCI namespace type -> clone flag."""
PROC_NAMES = {"mount": "mnt", "network": "net"}
"""OCI namespace type -> name below /proc/PID/ns, where they differ."""

Extent = tuple[int, int, int]
"""(id inside, id on the host, how many)"""

_SIGCHLD = 17
_SIGKILL = 9


def unshare(flags: int) -> None:
    syscall("unshare", flags, obj=f"{flags:#x}")


def setns(fd: int, flags: int, obj: object = "") -> None:
    """Enter the namespace fd, or (fd is a pidfd) all namespaces in `flags` of a process."""
    syscall("setns", fd, flags, obj=obj or f"fd {fd}")


def clone3(flags: int, *, cgroup_fd: int | None = None) -> tuple[int, int]:
    """Fork into new namespaces: (pid, pidfd) in the parent, (0, -1) in the child.

    Only for single-threaded processes (or a child that runs no Python). The interpreter's fork hooks run, as by
    os.fork. The pidfd is close-on-exec.
    """
    if sys.platform == "win32":
        raise NotImplementedError
    pidfd = ctypes.c_int(-1)
    if cgroup_fd is not None:
        flags |= CLONE_INTO_CGROUP
    exit_signal = 0 if flags & CLONE_PARENT else _SIGCHLD
    args = struct.pack(
        "11Q", flags | CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup_fd or 0
    )
    libc()
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    try:
        pid = syscall("clone3", args, len(args), obj=f"{flags:#x}")
    except OSError:
        api.PyOS_AfterFork_Parent()
        raise
    if pid == 0:
        api.PyOS_AfterFork_Child()
        return 0, -1
    api.PyOS_AfterFork_Parent()
    return pid, pidfd.value


def parse_extents(text: str) -> list[Extent]:
    """`C:H:S[;C:H:S…]` of a mount's uidmap=/gidmap= option. Raises ValueError."""
    extents = []
    for part in text.split(";"):
        inside, host, size = (int(n) for n in part.split(":"))
        extents.append((inside, host, size))
    return extents


def host_id(extents: Sequence[Extent], inside: int) -> int | None:
    """What an id of the container is on the host, None where it is not mapped."""
    for first, host, size in extents:
        if first <= inside < first + size:
            return host + inside - first
    return None


def write_maps(pid: int, uid_map: Sequence[Extent], gid_map: Sequence[Extent]) -> None:
    """Give a new user namespace its maps. The kernel takes them once, 340 lines each."""
    for name, extents in (("uid_map", uid_map), ("gid_map", gid_map)):
        path = f"/proc/{pid}/{name}"
        fd = openat2(AT_FDCWD, path, O_WRONLY)
        try:
            os.write(fd, "".join(f"{i} {h} {n}\n" for i, h, n in extents).encode())
        except OSError as e:
            raise OSError(e.errno, f"write {name}: {e.strerror}", str(list(extents))) from None
        finally:
            os.close(fd)


def create_userns(uid_map: Sequence[Extent], gid_map: Sequence[Extent]) -> int:
    """Descriptor of a new user namespace with these maps that nobody is in. For id-mapped mounts."""
    if sys.platform == "win32":
        raise NotImplementedError
    args = struct.pack("11Q", CLONE_NEWUSER, 0, 0, 0, _SIGCHLD, 0, 0, 0, 0, 0, 0)
    lib = libc()
    pause = lib.pause  # looked up before the fork: the child runs nothing but this call
    pid = syscall("clone3", args, len(args), obj="CLONE_NEWUSER")
    if pid == 0:
        while True:
            pause()
    try:
        write_maps(pid, uid_map, gid_map)
        return openat2(AT_FDCWD, f"/proc/{pid}/ns/user", O_RDONLY)
    finally:
        os.kill(pid, _SIGKILL)
        os.waitpid(pid, 0)


def sethostname(name: str) -> None:
    raw = path_bytes(name)
    syscall("sethostname", raw, len(raw), obj=name)


def setdomainname(name: str) -> None:
    raw = path_bytes(name)
    syscall("setdomainname", raw, len(raw), obj=name)
