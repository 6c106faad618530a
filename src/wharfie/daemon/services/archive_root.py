# SPDX-License-Identifier: Apache-2.0
"""Getting at a container's files from a worker process: cp and export.

A running container is entered (user and mount namespace, by pidfd), so that ids and mounts are what its processes see
and nothing outside is in reach. A stopped one is assembled from its snapshot, volumes and binds in a private mount
namespace. Either way the files are walked beneath a root descriptor by openat2, and what the work needs has been imported
before (CVE-2019-14271, CVE-2018-15664).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from wharfie.errdefs import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, ResourceExhausted
from wharfie.fsutil.beneath import create_file_in_root, mkdirs_in_root, open_in_root
from wharfie.linux import mountapi, namespaces, process
from wharfie.mount import Mount
from wharfie.mount.detached import open_mount

if sys.platform == "win32":
    raise ImportError("archive workers are Linux processes")

O_PATH = os.O_PATH | os.O_CLOEXEC
_STAGE = "/tmp"


class Where(msgspec.Struct):
    """A running container (`pid`; its pidfd is the worker's first descriptor) or what a stopped one consists of.

    `rootfs_only`: the root file system alone, as it is beneath what is mounted in it (export).
    """

    pid: int = 0
    mounts: list[Mount] = []
    volumes: list[Mount] = []
    read_only: bool = False
    rootfs_only: bool = False


class Root:
    """The container's `/`: `fd` is an O_PATH descriptor of it."""

    def __init__(self, fd: int, proc_fd: int) -> None:
        self.fd = fd
        self._proc_fd = proc_fd

    def open(self, path: str | bytes, flags: int) -> int:
        return open_in_root(self.fd, path, flags | os.O_CLOEXEC)

    def reopen(self, fd: int, flags: int) -> int:
        """Open what an O_PATH descriptor stands for; through the host's /proc, never the container's."""
        return os.open(str(fd), flags | os.O_CLOEXEC, dir_fd=self._proc_fd)


def enter(where: Where, fds: Sequence[int]) -> Root:
    """From here on this process sees the container's files. Raises FailedPrecondition, NotFound."""
    os.umask(0)
    proc_fd = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fd = _enter_running(where, fds[0]) if where.pid else _assemble(where)
    process.prctl(process.PR_SET_DUMPABLE, 0)
    return Root(fd, proc_fd)


def _enter_running(where: Where, pidfd: int) -> int:
    try:
        own = _ns(os.getpid(), "user") == _ns(where.pid, "user")
        namespaces.setns(pidfd, namespaces.CLONE_NEWNS, f"process {where.pid}")
        if where.rootfs_only:
            fd = mountapi.open_tree("/", mountapi.OPEN_TREE_CLONE)
        else:
            fd = os.open("/", O_PATH | os.O_DIRECTORY)
        if not own:
            namespaces.setns(pidfd, namespaces.CLONE_NEWUSER, f"process {where.pid}")
            process.set_ids(0, 0, ())
    except (FileNotFoundError, ProcessLookupError) as e:
        raise FailedPrecondition("enter container: it has just stopped", hint="try again") from e
    return fd


def _ns(pid: int, kind: str) -> tuple[int, int]:
    found = os.stat(f"/proc/{pid}/ns/{kind}")
    return found.st_dev, found.st_ino


def _assemble(where: Where) -> int:
    """The stopped container's tree, attached in a mount namespace of this process alone."""
    with ExitStack() as stack:
        root = open_mount(where.mounts[0], idmap=False)
        opened = []
        for volume in where.volumes:
            try:
                opened.append((volume, open_mount(volume, idmap=False)))
            except FileNotFoundError as e:
                raise NotFound(f"open mount {volume.source!r} of the container: it is gone") from e
            stack.callback(os.close, opened[-1][1])
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mountapi.mount("", "/", "", mountapi.MS_REC | mountapi.MS_PRIVATE)
        mountapi.move_mount(root, _STAGE, obj="root of the container")
        for volume, fd in opened:
            _attach(root, fd, volume)
        if where.read_only:
            mountapi.mount_setattr(root, attr_set=mountapi.MOUNT_ATTR_RDONLY)
    return root


def _attach(root: int, fd: int, volume: Mount) -> None:
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            at = mkdirs_in_root(root, volume.target)
        else:
            at = create_file_in_root(root, volume.target)
        try:
            mountapi.move_mount(fd, dir_fd=at, obj=volume.target)
        finally:
            os.close(at)
    except OSError as e:
        raise FailedPrecondition(f"mount {volume.source!r} at {volume.target!r} of the container: {e.strerror}") from e


def refused(operation: str, path: str, e: OSError) -> Exception:
    """An OSError in the container's files as one of ours."""
    text = f"{operation} {path!r}: {e.strerror}"
    if e.errno == errno.ENOENT:
        return NotFound(f"{operation}: Could not find the file {path} in the container")
    if e.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ResourceExhausted(text, hint="make room on the disk that holds the engine's root, or in the volume")
    if e.errno == errno.EROFS:
        return PermissionDenied(
            f"{operation} {path!r}: container rootfs or volume is marked read-only",
            hint="copy to a writable volume, or run the container without --read-only",
        )
    if e.errno in {errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG}:
        return InvalidArgument(text)
    if e.errno in {errno.EACCES, errno.EPERM, errno.EOVERFLOW}:
        return PermissionDenied(text)
    return e
