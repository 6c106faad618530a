# SPDX-License-Identifier: Apache-2.0
"""Parent: everything that needs the host, made as detached mounts: the root, binds, /dev, cgroup views.

/dev is a tmpfs of the host's user namespace with the device nodes on it, id-mapped as a whole: nodes work inside a user
namespace, belong to container root, and mknod inside stays refused.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from wharfie.errdefs import FailedPrecondition, InvalidArgument, Unsupported
from wharfie.linux import mountapi as k
from wharfie.linux import namespaces
from wharfie.mount import Mount
from wharfie.mount.detached import open_mount, open_tree, set_idmap
from wharfie.runtime.linux.plan import CGROUP, DEV, PARENT, MountPlan, Plan
from wharfie.spec.runtime import Device

_NODES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_LINKS = (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"))
_LINKS += (("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx"))  # type: ignore[assignment]
_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def prepare(
    plan: Plan,
    rootfs: Sequence[Mount],
    userns_fd: int | None,
    cgroup_dirs: Sequence[tuple[str, str]],
    stack: ExitStack,
    *,
    first: Callable[[list[int]], None] | None = None,
) -> list[int]:
    """Open everything, in the order the child takes it: root, dev, then `fd_count` for each mount.

    `stack` closes the descriptors. `cgroup_dirs`: (name, host directory) in order; name "" alone for v2. `first` gets
    root and dev as soon as they are there, and they are not in the list then.

    Raises: OSError, InvalidArgument, Unsupported, FailedPrecondition.
    """

    def keep(fd: int) -> int:
        stack.callback(os.close, fd)
        return fd

    fds = [keep(_root(plan, rootfs, userns_fd))]
    dev_options = next((m for m in plan.mounts if m.kind == DEV), None)
    dev = keep(_dev(plan, dev_options, userns_fd))
    fds.append(dev)
    if first is not None:
        first(fds)
        fds = []
    for m in plan.mounts:
        if m.kind == PARENT:
            fds.append(keep(_parent_mount(m, plan, userns_fd)))
        elif m.kind == DEV:
            fds.append(dev)
        elif m.kind == CGROUP:
            fds += [keep(fd) for fd in _cgroup(m, cgroup_dirs)]
    return fds


def _root(plan: Plan, rootfs: Sequence[Mount], userns_fd: int | None) -> int:
    root = plan.spec.root
    mounts = list(rootfs)
    if not mounts:
        if root is None:
            raise InvalidArgument("read config.json: it has no `root`")
        path = os.path.join(plan.bundle, root.path)
        if not os.path.isdir(path):
            raise InvalidArgument(f"open root file system `{path}`: it is not a directory")
        mounts = [Mount("bind", path, "", ("rbind", "rprivate"))]
    own = userns_fd if _same_maps(mounts, plan) else None
    return open_tree(mounts, userns_fd=own)


def _same_maps(mounts: Sequence[Mount], plan: Plan) -> bool:
    """Whether the mounts ask for the very maps of the container's user namespace."""
    for m in mounts:
        for option in m.options:
            for key, wanted in (("uidmap=", plan.uid_map), ("gidmap=", plan.gid_map)):
                if option.startswith(key):
                    try:
                        if namespaces.parse_extents(option[len(key) :]) != wanted:
                            return False
                    except ValueError:
                        return False
    return True


def _parent_mount(m: MountPlan, plan: Plan, userns_fd: int | None) -> int:
    options = m.options
    if m.fs_type == "sysfs":
        fd = k.open_tree("/sys", k.OPEN_TREE_CLONE)
        k.mount_setattr(fd, attr_set=options.attr_set | k.MOUNT_ATTR_RDONLY, propagation=k.MS_PRIVATE)
        return fd
    if m.fs_type != "bind":
        words = (*_words(options.attr_set), *options.superblock, *options.data)
        fd = open_mount(Mount(m.fs_type, m.source, "", words))
    else:
        fd = k.open_tree(m.source, k.OPEN_TREE_CLONE | (k.AT_RECURSIVE if options.rbind else 0))
    try:
        if m.fs_type == "bind":
            # Shared and slave keep their tie to the host's mount; everything else is cut off from it.
            if not any(flag in (k.MS_SHARED, k.MS_SLAVE) for flag, _ in options.propagation):
                k.mount_setattr(fd, propagation=k.MS_PRIVATE, recursive=True)
            for flag, recursive in options.propagation:
                k.mount_setattr(fd, propagation=flag, recursive=recursive, obj=m.source)
            if options.attr_set or options.attr_clr:
                k.mount_setattr(fd, attr_set=options.attr_set, attr_clr=options.attr_clr, obj=m.source)
        if m.uid_map:
            _idmap(fd, m, plan, userns_fd)
        if options.recursive_set or options.recursive_clr:
            k.mount_setattr(
                fd, attr_set=options.recursive_set, attr_clr=options.recursive_clr, recursive=True, obj=m.source
            )
    except BaseException:
        os.close(fd)
        raise
    return fd


def _words(attributes: int) -> tuple[str, ...]:
    table = (("ro", k.MOUNT_ATTR_RDONLY), ("nosuid", k.MOUNT_ATTR_NOSUID), ("nodev", k.MOUNT_ATTR_NODEV))
    table += (("noexec", k.MOUNT_ATTR_NOEXEC), ("nosymfollow", k.MOUNT_ATTR_NOSYMFOLLOW))  # type: ignore[assignment]
    return tuple(word for word, bit in table if attributes & bit)


def _idmap(fd: int, m: MountPlan, plan: Plan, userns_fd: int | None) -> None:
    uid_map, gid_map = list(m.uid_map), list(m.gid_map)
    own = -1
    if userns_fd is not None and uid_map == plan.uid_map and gid_map == plan.gid_map:
        chosen = userns_fd
    else:
        chosen = own = namespaces.create_userns(uid_map, gid_map)
    try:
        set_idmap(fd, chosen, m.source, recursive=m.options.idmap == "ridmap")
    finally:
        if own >= 0:
            os.close(own)


def _dev(plan: Plan, m: MountPlan | None, userns_fd: int | None) -> int:
    """A tmpfs with the standard nodes, links and the spec's devices. Without a /dev in the spec, nodes alone."""
    options = ("mode=755", "size=65536k") if m is None else (*m.options.superblock, *m.options.data)
    attributes = k.MOUNT_ATTR_NOSUID if m is None else m.options.attr_set & ~(k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_RDONLY)
    fd = k.new_mount("tmpfs", options, source="tmpfs", attributes=attributes)
    old = os.umask(0)
    try:
        for name, major, minor in _NODES:
            os.mknod(name, 0o666 | stat.S_IFCHR, os.makedev(major, minor), dir_fd=fd)
        for name, target in _LINKS:
            os.symlink(target, name, dir_fd=fd)
        linux = plan.spec.linux
        for device in linux.devices if linux is not None else []:
            if os.path.normpath(device.path).startswith("/dev/"):
                _node(fd, device)
            else:
                raise Unsupported(f"make device `{device.path}`: it is not below /dev")
        if userns_fd is not None:
            try:
                set_idmap(fd, userns_fd, "/dev")
            except Unsupported:
                _give_away(fd, plan)
    except BaseException:
        os.close(fd)
        raise
    finally:
        os.umask(old)
    return fd


def _give_away(dev_fd: int, plan: Plan) -> None:
    """Before 6.3 a tmpfs cannot be id-mapped: everything on it goes to the host's ids that stand for its owners."""

    def give(name: str, at: int) -> None:
        st = os.stat(name, dir_fd=at, follow_symlinks=False)
        uid, gid = namespaces.host_id(plan.uid_map, st.st_uid), namespaces.host_id(plan.gid_map, st.st_gid)
        os.chown(name, -1 if uid is None else uid, -1 if gid is None else gid, dir_fd=at, follow_symlinks=False)

    for _, directories, files, at in os.fwalk(".", dir_fd=dev_fd):
        for name in (*directories, *files):
            give(name, at)
    give(".", dev_fd)


def _node(dev_fd: int, device: Device) -> None:
    kind = _TYPES.get(device.type)
    if kind is None:
        raise InvalidArgument(f"make device `{device.path}`: unknown type `{device.type}`")
    name = os.path.normpath(device.path)[len("/dev/") :]
    if name.startswith(("pts/", "..")) or name in {"ptmx", "console"}:
        return  # devpts and the terminal bring their own
    parent = os.path.dirname(name)
    made = ""
    for part in filter(None, parent.split("/")):
        made = f"{made}/{part}" if made else part
        try:
            os.mkdir(made, 0o755, dir_fd=dev_fd)
        except FileExistsError:
            continue
    mode = 0o666 if device.file_mode is None else device.file_mode & 0o7777
    try:
        os.mknod(name, kind | mode, os.makedev(device.major, device.minor), dir_fd=dev_fd)
    except FileExistsError:
        os.chmod(name, mode, dir_fd=dev_fd)  # one of the standard nodes, with a mode or owner of its own
    except OSError as e:
        raise FailedPrecondition(f"make device `{device.path}`: {e.strerror}") from e
    if device.uid or device.gid:
        os.chown(name, device.uid or 0, device.gid or 0, dir_fd=dev_fd)


def _cgroup(m: MountPlan, dirs: Sequence[tuple[str, str]]) -> list[int]:
    """Views of the container's own cgroup directories: binds, which work in any user and cgroup namespace."""
    flags = m.options.attr_set
    if len(dirs) == 1 and not dirs[0][0]:
        return [_bind_dir(dirs[0][1], flags)]
    base = k.new_mount("tmpfs", ("mode=755",), source="cgroup", attributes=flags & ~k.MOUNT_ATTR_RDONLY)
    for name, _ in dirs:
        os.mkdir(name, 0o755, dir_fd=base)
        if "," in name:
            for alias in name.split(","):
                os.symlink(name, alias, dir_fd=base)
    return [base, *(_bind_dir(path, flags) for _, path in dirs)]


def _bind_dir(path: str, attributes: int) -> int:
    fd = k.open_tree(path, k.OPEN_TREE_CLONE)
    k.mount_setattr(fd, attr_set=attributes, propagation=k.MS_PRIVATE, obj=path)
    return fd
