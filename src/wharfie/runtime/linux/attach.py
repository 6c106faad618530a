# SPDX-License-Identifier: Apache-2.0
"""Child: the spec's mounts, masks and read-only paths, each put on a descriptor of its target.

A target is looked up once, beneath the new root, and the mount goes onto what was found. Sources of masks are nodes that
the parent made on a tmpfs of ours, never a name in the container (CVE-2025-31133, -52565). Nothing but procfs, and a
few files that may cover it, lands on procfs (CVE-2019-16884, -19921), so that what is written to /proc goes there.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Sequence

from wharfie.errdefs import InvalidArgument
from wharfie.fsutil.beneath import create_file_in_root, mkdirs_in_root, open_in_root
from wharfie.linux import mountapi as k
from wharfie.linux.libc import error, libc
from wharfie.linux.openat2 import (
    O_DIRECTORY,
    O_PATH,
    O_WRONLY,
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)
from wharfie.runtime.linux.copyup import copy_up
from wharfie.runtime.linux.plan import CGROUP, CHILD, MountPlan, Plan

_PROC_SUPER_MAGIC = 0x9FA0


def fs_magic(fd: int) -> int:
    """f_type of the file system that fd is on."""
    buffer = ctypes.create_string_buffer(256)
    if libc().fstatfs(fd, buffer) != 0:
        raise error("fstatfs", fd)
    return int(struct.unpack_from("q", buffer.raw)[0])


class Mounter:
    """Attaches mounts beneath root_fd. `dev_fd` and `proc_fd` become known on the way."""

    def __init__(self, plan: Plan, root_fd: int, cgroup_names: Sequence[str]) -> None:
        self.plan = plan
        self.cgroup_names = cgroup_names
        self.root_fd = root_fd
        self.proc_fd = -1
        self.pts_fd = -1

    def attach(self, m: MountPlan, fds: Sequence[int]) -> None:
        """`fds` come from the parent: one for its own mounts, base and members for cgroup, none for the child's."""
        if m.kind == CHILD:
            self._attach_own(m)
        elif m.kind == CGROUP:
            self._attach_cgroup(m, fds)
        else:
            self._put(fds[0], m)
            os.close(fds[0])

    def _target(self, m: MountPlan, *, directory: bool) -> int:
        strict = m.fs_type in {"proc", "sysfs"}
        try:
            if directory:
                target = mkdirs_in_root(self.root_fd, m.destination, symlinks=not strict)
            else:
                target = create_file_in_root(self.root_fd, m.destination)
        except OSError as e:
            if strict and e.errno in (errno.ELOOP, errno.ENOTDIR):
                raise InvalidArgument(
                    f"mount {m.fs_type} on `{m.destination}`: it is a symbolic link in the image"
                ) from e
            raise OSError(e.errno, f"make mount point: {e.strerror}", m.destination) from None
        if fs_magic(target) == _PROC_SUPER_MAGIC and not m.on_proc and m.fs_type != "proc":
            os.close(target)
            raise InvalidArgument(f"mount `{m.source}` on `{m.destination}`: it leads into /proc")
        return target

    def _put(self, fd: int, m: MountPlan) -> None:
        target = self._target(m, directory=stat.S_ISDIR(os.fstat(fd).st_mode))
        try:
            k.move_mount(fd, dir_fd=target, obj=m.destination)
        finally:
            os.close(target)

    def _attach_own(self, m: MountPlan) -> None:
        o = m.options
        fd = k.new_mount(m.fs_type, (*o.superblock, *o.data), source=m.source or m.fs_type, attributes=o.attr_set)
        if o.tmpcopyup:
            copy_up(self.root_fd, m.destination, fd)
        self._put(fd, m)
        for flag, recursive in o.propagation:
            k.mount_setattr(fd, propagation=flag, recursive=recursive, obj=m.destination)
        if o.recursive_set or o.recursive_clr:
            k.mount_setattr(fd, attr_set=o.recursive_set, attr_clr=o.recursive_clr, recursive=True, obj=m.destination)
        if m.fs_type == "proc" and m.destination == "/proc":
            self.proc_fd = fd
        elif m.fs_type == "devpts" and self.pts_fd < 0:
            self.pts_fd = fd
        else:
            os.close(fd)

    def _attach_cgroup(self, m: MountPlan, fds: Sequence[int]) -> None:
        """Base first; each further descriptor goes onto the directory that the base has for its hierarchy."""
        base = fds[0]
        self._put(base, m)
        for name, fd in zip(self.cgroup_names, fds[1:], strict=False):
            at = openat2(base, name, O_PATH | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
            k.move_mount(fd, dir_fd=at, obj=f"{m.destination}/{name}")
            os.close(at)
            os.close(fd)
        if len(fds) > 1 and m.options.read_only:
            k.mount_setattr(base, attr_set=k.MOUNT_ATTR_RDONLY, obj=m.destination)
        os.close(base)

    def write_sysctls(self) -> None:
        """Through a procfs of our own making, no links, no other mounts on the way (CVE-2025-52881)."""
        if not self.plan.sysctls:
            return
        own = self.proc_fd if self.proc_fd >= 0 else k.new_mount("proc", source="proc")
        rules = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS
        for path, value in self.plan.sysctls:
            fd = openat2(own, f"sys/{path}", O_WRONLY, 0, rules)
            try:
                os.write(fd, value.encode())
            except OSError as e:
                raise OSError(e.errno, f"write sysctl: {e.strerror}", f"{path}={value}") from None
            finally:
                os.close(fd)
        if own != self.proc_fd:
            os.close(own)

    def make_read_only(self, path: str) -> None:
        try:
            fd = open_in_root(self.root_fd, path, O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            return
        clone = k.open_tree("", k.OPEN_TREE_CLONE | k.AT_RECURSIVE, dir_fd=fd)
        k.mount_setattr(clone, attr_set=k.MOUNT_ATTR_RDONLY, recursive=True, obj=path)
        k.move_mount(clone, dir_fd=fd, obj=path)
        os.close(clone)
        os.close(fd)

    def mask(self, paths: Sequence[str], null_fd: int) -> None:
        """Hide files behind the null device, directories behind an empty read-only tmpfs."""
        empty = -1
        for path in paths:
            try:
                fd = open_in_root(self.root_fd, path, O_PATH)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                if empty < 0:
                    options = ("nr_inodes=2", "size=4096")
                    empty = k.new_mount("tmpfs", options, source="tmpfs", attributes=k.MOUNT_ATTR_RDONLY)
                    cover = empty
                else:
                    cover = k.open_tree("", k.OPEN_TREE_CLONE, dir_fd=empty)
            else:
                cover = k.open_tree("", k.OPEN_TREE_CLONE, dir_fd=null_fd)
            k.move_mount(cover, dir_fd=fd, obj=path)
            if cover != empty:
                os.close(cover)
            os.close(fd)
        if empty >= 0:
            os.close(empty)
