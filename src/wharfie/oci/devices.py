# SPDX-License-Identifier: Apache-2.0
"""Device nodes and device rules: the default set, --device, --device-cgroup-rule, --privileged."""

from __future__ import annotations

import os
import posixpath
import re
import stat as _stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from wharfie.errdefs import InvalidArgument, NotFound, Unsupported
from wharfie.spec.docker import DeviceMapping
from wharfie.spec.runtime import Device, DeviceCgroup

_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})", re.ASCII)
_ANY = "*"

DEFAULT_RULES = (
    DeviceCgroup(False, access="rwm"),
    DeviceCgroup(True, "c", access="m"),
    DeviceCgroup(True, "b", access="m"),
    DeviceCgroup(True, "c", 1, 3, "rwm"),  # null
    DeviceCgroup(True, "c", 1, 5, "rwm"),  # zero
    DeviceCgroup(True, "c", 1, 7, "rwm"),  # full
    DeviceCgroup(True, "c", 1, 8, "rwm"),  # random
    DeviceCgroup(True, "c", 1, 9, "rwm"),  # urandom
    DeviceCgroup(True, "c", 5, 0, "rwm"),  # tty
    DeviceCgroup(True, "c", 5, 1, "rwm"),  # console
    DeviceCgroup(True, "c", 5, 2, "rwm"),  # ptmx
    DeviceCgroup(True, "c", 136, None, "rwm"),  # pts
)
"""runtime-spec config-linux.md, "Default Devices", as rules; making nodes is allowed, using them is not."""

ALLOW_ALL = (DeviceCgroup(True, access="rwm"),)

_SKIPPED_DIRECTORIES = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})


def parse_rule(text: str) -> DeviceCgroup:
    """`c 13:* rwm` -> DeviceCgroup; `*` is any number. Raises InvalidArgument."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidArgument(
            f"read device cgroup rule {text!r}: it is not <a|b|c> <major>:<minor> <rwm>",
            hint="for example 'c 13:* rwm'",
        )
    kind, major, minor, access = match.groups()
    return DeviceCgroup(
        True, kind, None if major == _ANY else int(major), None if minor == _ANY else int(minor), check_access(access)
    )


def check_access(access: str) -> str:
    """Raises InvalidArgument unless `access` is made of r, w and m, each once."""
    if not access or len(set(access)) != len(access) or not set(access) <= set("rwm"):
        raise InvalidArgument(f"read device permissions {access!r}: they are made of r, w and m, each at most once")
    return access


def is_access(word: str) -> bool:
    return bool(word) and len(set(word)) == len(word) and set(word) <= set("rwm")


def _numbers(st: os.stat_result) -> tuple[int, int]:
    if sys.platform == "win32":
        raise Unsupported("read device numbers: this host is not Linux")
    return os.major(st.st_rdev), os.minor(st.st_rdev)


def _node(target: str, st: os.stat_result) -> Device | None:
    mode = st.st_mode
    if _stat.S_ISCHR(mode):
        kind = "c"
    elif _stat.S_ISBLK(mode):
        kind = "b"
    else:
        return None
    return Device(target, kind, *_numbers(st), _stat.S_IMODE(mode), st.st_uid, st.st_gid)


class Lookup(NamedTuple):
    """How device nodes are found: the os functions, or stand-ins."""

    stat: Callable[[str], os.stat_result] = os.stat
    lstat: Callable[[str], os.stat_result] = os.lstat
    listdir: Callable[[str], list[str]] = os.listdir


def mapped_devices(mappings: Iterable[DeviceMapping], look: Lookup) -> Iterator[tuple[Device, DeviceCgroup]]:
    """Node and rule of each --device; a directory gives every device below it.

    A link that is named is followed: the node gets the name asked for and the target's numbers. Links below a directory
    are left out.
    Raises NotFound (no such host path), InvalidArgument (not a device, bad permissions, relative path).
    """
    for mapping in mappings:
        source = mapping.path_on_host
        target = mapping.path_in_container or source
        access = check_access(mapping.cgroup_permissions or "rwm")
        if not source.startswith("/") or not target.startswith("/") or ".." in target.split("/"):
            raise InvalidArgument(f"add device {source!r} as {target!r}: both paths must be absolute, without '..'")
        found = False
        for path, st in _walk(source, look, frozenset(), top=True):
            node = _node(posixpath.normpath(target + path[len(source) :]), st)
            if node is not None:
                found = True
                yield node, DeviceCgroup(True, node.type, node.major, node.minor, access)
        if not found:
            raise InvalidArgument(f"add device {source!r}: it is not a device node and has none below it")


def _walk(path: str, look: Lookup, skip: frozenset[str], *, top: bool = False) -> Iterator[tuple[str, os.stat_result]]:
    try:
        st = look.stat(path) if top else look.lstat(path)
    except OSError as e:
        if top:
            raise NotFound(
                f"add device: stat {path!r}: {e.strerror or e}", hint="the path must exist on the host", path=path
            ) from e
        return  # gone since listdir
    if not _stat.S_ISDIR(st.st_mode):
        yield path, st
        return
    for name in sorted(look.listdir(path)):
        if name not in skip:
            yield from _walk(f"{path.rstrip('/')}/{name}", look, skip)


def host_devices(look: Lookup) -> list[Device]:
    """Every device node of the host's /dev, for --privileged; console and the pts side are the container's own."""
    return [
        node
        for path, st in _walk("/dev", look, _SKIPPED_DIRECTORIES, top=True)
        if path not in {"/dev/console", "/dev/ptmx"} and (node := _node(path, st)) is not None
    ]


def device_numbers(path: str, stat: Callable[[str], os.stat_result]) -> tuple[int, int]:
    """major, minor of a block device given by path (blkio limits). Raises NotFound, InvalidArgument."""
    try:
        st = stat(path)
    except OSError as e:
        raise NotFound(f"read device numbers: stat {path!r}: {e.strerror or e}", path=path) from e
    if not _stat.S_ISBLK(st.st_mode):
        raise InvalidArgument(f"limit i/o of {path!r}: it is not a block device")
    return _numbers(st)


def rules(mapped: Sequence[DeviceCgroup], words: Iterable[str], *, privileged: bool) -> list[DeviceCgroup]:
    """The whole device list of `linux.resources`, default first."""
    if privileged:
        return list(ALLOW_ALL)
    return [*DEFAULT_RULES, *mapped, *(parse_rule(w) for w in words)]
