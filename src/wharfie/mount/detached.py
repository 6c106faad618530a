# SPDX-License-Identifier: Apache-2.0
"""Mounts as descriptors that no mount table shows. Nothing to unmount: closing the descriptor is the end of it.

`open_tree([Mount])` gives one descriptor for a whole tree. It serves our runtime (which attaches it inside a container)
and everybody who wants to look into a snapshot (`fsutil.beneath` works on it).

An id-mapped overlay (uidmap=/gidmap=) is an overlay over id-mapped layers, for overlayfs itself can't be id-mapped.
The surprise in it: overlayfs works with the credentials of whoever creates it. Host root is not mapped in an id-mapped
upper, so its work directory couldn't be made and the overlay would silently come up read-only. So the one creating
call runs with the fsuid of the container's root, and SECBIT_NO_SETUID_FIXUP keeps the capabilities meanwhile.

Kernels (decisions 10): 6.15 takes detached lowers by descriptor; before that the layers are attached for a moment in a
private mount namespace of a thread, at short paths, and the overlay is named by strings.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from wharfie.errdefs import InvalidArgument, Unsupported
from wharfie.linux import mountapi as k
from wharfie.linux import namespaces, process
from wharfie.linux.openat2 import AT_FDCWD, O_DIRECTORY, O_PATH, openat2
from wharfie.mount import Mount
from wharfie.mount.options import Options, parse

_STAGE = "/tmp"
"""Directory that every host has: the private namespace of the fallback mounts a tmpfs over it."""


class _Idmap(NamedTuple):
    userns_fd: int
    root_uid: int
    root_gid: int


def open_tree(
    mounts: Sequence[Mount],
    *,
    read_only: bool = False,
    userns_fd: int | None = None,
    idmap: bool = True,
    by_descriptor: bool = True,
) -> int:
    """Descriptor of the detached tree that `mounts` describe, outermost first. The caller closes it.

    `userns_fd`: a user namespace with the same maps as the mounts' uidmap=/gidmap= options, to save making one.
    `idmap=False` shows ownership as it is on disk. `by_descriptor=False` takes the path of older kernels (for tests).
    Raises: OSError naming call and object, InvalidArgument (malformed option), Unsupported (cannot be id-mapped).
    """
    if not mounts:
        raise InvalidArgument("open mounts: the list is empty")
    with ExitStack() as stack:
        root = open_mount(mounts[0], userns_fd=userns_fd, idmap=idmap, by_descriptor=by_descriptor)
        stack.callback(os.close, root)
        if len(mounts) > 1:
            rest = []
            for mount in mounts[1:]:
                rest.append(open_mount(mount, userns_fd=userns_fd, idmap=idmap, by_descriptor=by_descriptor))
                stack.callback(os.close, rest[-1])
            targets = [m.target for m in mounts[1:]]
            combined = _in_private_namespace(lambda: _combine(root, rest, targets))
            stack.callback(os.close, combined)
            root = combined
        if read_only:
            k.mount_setattr(root, attr_set=k.MOUNT_ATTR_RDONLY, recursive=True)
        return os.dup(root)


def open_mount(mount: Mount, *, userns_fd: int | None = None, idmap: bool = True, by_descriptor: bool = True) -> int:
    """Descriptor of one mount, detached; its `target` does not matter."""
    options = parse(mount.options)
    with ExitStack() as stack:
        ids = _idmap(options, userns_fd, stack) if idmap else None
        if mount.type == "overlay":
            fd = _overlay(options, ids, by_descriptor=by_descriptor)
        elif options.bind or mount.type == "bind":
            fd = _bind(mount.source, options, ids)
        else:
            fd = _new(mount, options, ids)
        return fd


def _idmap(options: Options, userns_fd: int | None, stack: ExitStack) -> _Idmap | None:
    if not options.uid_map and not options.gid_map:
        return None
    try:
        uids = namespaces.parse_extents(options.uid_map)
        gids = namespaces.parse_extents(options.gid_map or options.uid_map)
    except ValueError:
        raise InvalidArgument(
            f"read mount option `uidmap={options.uid_map},gidmap={options.gid_map}`: not C:H:S[;C:H:S…]"
        ) from None
    root_uid, root_gid = namespaces.host_id(uids, 0), namespaces.host_id(gids, 0)
    if root_uid is None or root_gid is None:
        raise InvalidArgument(f"read mount option `uidmap={options.uid_map}`: id 0 is not mapped")
    if userns_fd is None:
        userns_fd = namespaces.create_userns(uids, gids)
        stack.callback(os.close, userns_fd)
    return _Idmap(userns_fd, root_uid, root_gid)


def set_idmap(fd: int, userns_fd: int, obj: str, *, recursive: bool = False) -> None:
    """Id-map a detached mount. Raises Unsupported where its file system cannot."""
    try:
        k.mount_setattr(fd, attr_set=k.MOUNT_ATTR_IDMAP, userns_fd=userns_fd, recursive=recursive, obj=obj)
    except OSError as e:
        if e.errno == errno.EINVAL:
            raise Unsupported(
                f"id-map mount `{obj}`: {e.strerror}",
                hint="its file system cannot be id-mapped; --userns=host goes without",
            ) from e
        raise


def _finish(fd: int, options: Options) -> None:
    if options.attr_set or options.attr_clr:
        k.mount_setattr(fd, attr_set=options.attr_set, attr_clr=options.attr_clr)
    if options.recursive_set or options.recursive_clr:
        k.mount_setattr(fd, attr_set=options.recursive_set, attr_clr=options.recursive_clr, recursive=True)
    for flag, recursive in options.propagation:
        k.mount_setattr(fd, propagation=flag, recursive=recursive)


def _bind(source: str, options: Options, ids: _Idmap | None) -> int:
    fd = k.open_tree(source, k.OPEN_TREE_CLONE | (k.AT_RECURSIVE if options.rbind else 0))
    try:
        if ids is not None:
            set_idmap(fd, ids.userns_fd, source)
        k.mount_setattr(fd, propagation=k.MS_PRIVATE, recursive=options.rbind)
        _finish(fd, options)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _new(mount: Mount, options: Options, ids: _Idmap | None) -> int:
    data = [*options.superblock, *options.data]
    if options.read_only and mount.type not in {"tmpfs", "proc", "sysfs"}:
        data.insert(0, "ro")  # a disk's own superblock: mounting it writable would write to it
    fd = k.new_mount(mount.type, data, source=mount.source, attributes=options.attr_set)
    try:
        if ids is not None:
            set_idmap(fd, ids.userns_fd, mount.source)
        for flag, recursive in options.propagation:
            k.mount_setattr(fd, propagation=flag, recursive=recursive)
    except BaseException:
        os.close(fd)
        raise
    return fd


class _Overlay(NamedTuple):
    lower: list[str]
    upper: str
    work: str
    rest: list[str]


def _overlay_options(options: Options) -> _Overlay:
    lower: list[str] = []
    upper = work = ""
    rest = list(options.superblock)
    for word in options.data:
        key, _, value = word.partition("=")
        if key == "lowerdir":
            lower += _split_escaped(value)
        elif key == "lowerdir+":
            lower.append(value)
        elif key == "upperdir":
            upper = _unescape(value)
        elif key == "workdir":
            work = _unescape(value)
        else:
            rest.append(word)
    if not lower or bool(upper) != bool(work):
        raise InvalidArgument(
            f"read overlay options `{','.join(options.data)}`: lowerdir, or upperdir with workdir, missing"
        )
    return _Overlay(lower, upper, work, rest)


def _split_escaped(value: str) -> list[str]:
    if "\\" not in value:
        return value.split(":")
    parts, current, escaped = [], "", False
    for c in value:
        if escaped:
            current, escaped = current + c, False
        elif c == "\\":
            escaped = True
        elif c == ":":
            parts.append(current)
            current = ""
        else:
            current += c
    return [*parts, current]


def _unescape(value: str) -> str:
    return "".join(_split_escaped(value.replace(":", "\\:"))) if "\\" in value else value


def _overlay(options: Options, ids: _Idmap | None, *, by_descriptor: bool) -> int:
    overlay = _overlay_options(options)
    if by_descriptor:
        try:
            fd = _overlay_by_descriptor(overlay, ids)
        except OSError as e:
            # Before 6.5 overlayfs takes no descriptors (EOPNOTSUPP), before 6.13 the option is unknown, before 6.15 a
            # detached layer is refused (EINVAL both).
            if e.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            fd = _in_private_namespace(lambda: _overlay_by_strings(overlay, ids))
    else:
        fd = _in_private_namespace(lambda: _overlay_by_strings(overlay, ids))
    try:
        _finish(fd, options)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _layer(path: str, ids: _Idmap | None) -> int:
    """A layer for SET_FD: a plain O_PATH descriptor, or an id-mapped detached clone."""
    if ids is None:
        return openat2(AT_FDCWD, path, O_PATH | O_DIRECTORY)
    fd = k.open_tree(path, k.OPEN_TREE_CLONE)
    try:
        set_idmap(fd, ids.userns_fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _overlay_by_descriptor(overlay: _Overlay, ids: _Idmap | None) -> int:
    with ExitStack() as stack:

        def keep(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        fs = keep(k.fsopen("overlay"))
        k.fsconfig_string(fs, "source", "overlay")
        for path in overlay.lower:
            k.fsconfig_fd(fs, "lowerdir+", keep(_layer(path, ids)))
        if overlay.upper:
            # Both must be on one mount: an id-mapped clone of the directory that holds the two.
            top = os.path.commonpath((overlay.upper, overlay.work))
            base = keep(_layer(top, ids))
            for key, path in (("upperdir", overlay.upper), ("workdir", overlay.work)):
                k.fsconfig_fd(fs, key, keep(openat2(base, os.path.relpath(path, top), O_PATH | O_DIRECTORY)))
        _words(fs, overlay.rest)
        _create(fs, ids)
        return k.fsmount(fs, 0, "overlay")


def _words(fs: int, words: list[str]) -> None:
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            k.fsconfig_string(fs, key, value)
        else:
            k.fsconfig_flag(fs, key)


def _as_container_root(ids: _Idmap | None, do: Callable[[], None]) -> None:
    """Run `do` with the fsuid of container root, all capabilities kept (this thread only). See the module's head."""
    if ids is None:
        do()
        return
    bits = process.prctl(process.PR_GET_SECUREBITS)
    process.prctl(process.PR_SET_SECUREBITS, bits | process.SECBIT_NO_SETUID_FIXUP, obj="NO_SETUID_FIXUP")
    try:
        process.setfsgid(ids.root_gid)
        process.setfsuid(ids.root_uid)
        do()
    finally:
        process.setfsuid(0)
        process.setfsgid(0)
        process.prctl(process.PR_SET_SECUREBITS, bits)


def _create(fs: int, ids: _Idmap | None) -> None:
    _as_container_root(ids, lambda: k.fsconfig_create(fs, "overlay"))


def _in_private_namespace(do: Callable[[], int]) -> int:
    """Run `do` in a thread with a mount namespace of its own; descriptors are shared with it, mounts are not."""
    result: list[int] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_FS)
            k.mount("", "/", "", k.MS_REC | k.MS_PRIVATE)
            result.append(do())
        except BaseException as e:
            failure.append(e)

    thread = threading.Thread(target=run, name="mounts")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def _overlay_by_strings(overlay: _Overlay, ids: _Idmap | None) -> int:
    """Attach id-mapped layers at short paths, mount the overlay by strings, take it out as a descriptor."""
    with ExitStack() as stack:
        layers = []
        for path in overlay.lower:
            layers.append(_layer(path, ids) if ids else k.open_tree(path, k.OPEN_TREE_CLONE))
            stack.callback(os.close, layers[-1])
        top = ""
        if overlay.upper:
            top = os.path.commonpath((overlay.upper, overlay.work))
            layers.append(_layer(top, ids) if ids else k.open_tree(top, k.OPEN_TREE_CLONE))
            stack.callback(os.close, layers[-1])
        k.mount("tmpfs", _STAGE, "tmpfs", 0, "mode=0755")
        stage = openat2(AT_FDCWD, _STAGE, O_PATH | O_DIRECTORY)
        stack.callback(os.close, stage)
        names = []
        for n, fd in enumerate(layers):
            names.append(f"{n:x}")
            os.mkdir(f"{_STAGE}/{names[-1]}")
            k.move_mount(fd, f"{_STAGE}/{names[-1]}")
        os.mkdir(f"{_STAGE}/m")
        os.chdir(_STAGE)  # the thread's own (CLONE_FS): relative names keep the page of options short
        words = list(overlay.rest)
        if overlay.upper:
            base = names.pop()
            words.append(f"upperdir={base}/{os.path.relpath(overlay.upper, top)}")
            words.append(f"workdir={base}/{os.path.relpath(overlay.work, top)}")
        words.append("lowerdir=" + ":".join(names))
        _as_container_root(ids, lambda: k.mount("overlay", "m", "overlay", 0, ",".join(words)))
        return k.open_tree("m", k.OPEN_TREE_CLONE)


def _combine(root: int, rest: list[int], targets: list[str]) -> int:
    """Attach `root` and what belongs beneath it, and take the whole out again as one descriptor."""
    from wharfie.fsutil.beneath import IN_ROOT

    k.move_mount(root, _STAGE)
    for fd, target in zip(rest, targets, strict=True):
        at = openat2(root, target, O_PATH, 0, IN_ROOT)
        try:
            k.move_mount(fd, dir_fd=at, obj=target)
        finally:
            os.close(at)
    return k.open_tree("", k.OPEN_TREE_CLONE | k.AT_RECURSIVE, dir_fd=root)
