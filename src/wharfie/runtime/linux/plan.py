# SPDX-License-Identifier: Apache-2.0
"""config.json, checked and sorted into what parent and child will do. No side effects: a bad spec fails before any."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import os
from collections.abc import Sequence
from typing import NamedTuple

from wharfie.errdefs import FailedPrecondition, InvalidArgument, Unsupported
from wharfie.linux import namespaces as ns
from wharfie.mount.options import Options, parse
from wharfie.runtime.linux.process import ProcessPlan, plan_process
from wharfie.runtime.linux.seccomp import compiled
from wharfie.spec.runtime import Hooks, IDMapping, Mount, Spec

INIT_ANNOTATION = "io.wharfie.init"
"""Annotation: "1" puts a small init before the user's program."""

CHILD, PARENT, DEV, CGROUP = "child", "parent", "dev", "cgroup"
"""Who makes a mount: the child in its namespaces, the parent on the host; /dev and cgroup are put together specially."""

_CHILD_TYPES = {"proc", "sysfs", "tmpfs", "devpts", "mqueue", "ramfs"}
_PROC_FILES = {
    "/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
    "/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}  # fmt: skip
"""Files below /proc that may be bound over (lxcfs and the like do)."""
_PERSONALITIES = {"LINUX": 0, "LINUX32": 8}
_MS_REC = 16384
_PROPAGATION = {
    "": 0, "shared": 1 << 20, "slave": 1 << 19, "private": 1 << 18, "unbindable": 1 << 17,
}  # fmt: skip
_IPC_SYSCTLS = {
    "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni",
    "kernel.shm_rmid_forced", "kernel.auto_msgmni", "kernel.msg_next_id", "kernel.sem_next_id", "kernel.shm_next_id",
}  # fmt: skip


class MountPlan(NamedTuple):
    kind: str
    destination: str
    fs_type: str
    source: str
    options: Options
    uid_map: tuple[ns.Extent, ...]
    gid_map: tuple[ns.Extent, ...]

    @property
    def on_proc(self) -> bool:
        """May this mount's target lie on procfs?"""
        return self.fs_type == "bind" and self.destination in _PROC_FILES


class Plan(NamedTuple):
    """What to do. `unshare_flags` are done by the child itself, `clone_flags` at its birth, `joins` before it."""

    container_id: str
    bundle: str
    spec: Spec
    process: ProcessPlan
    clone_flags: int
    unshare_flags: int
    cgroup_namespace: bool
    joins: list[tuple[str, str]]
    own: frozenset[str]
    uid_map: list[ns.Extent]
    gid_map: list[ns.Extent]
    mounts: list[MountPlan]
    sysctls: list[tuple[str, str]]
    hooks: Hooks
    root_propagation: int
    root_read_only: bool
    persona: int | None
    no_pivot: bool
    no_new_keyring: bool

    @property
    def user_namespace(self) -> bool:
        return bool(self.clone_flags & ns.CLONE_NEWUSER) or any(t == "user" for t, _ in self.joins)


def fd_count(m: MountPlan, cgroup_names: Sequence[str]) -> int:
    """How many descriptors the parent sends for a mount."""
    if m.kind == CGROUP:
        return 1 if list(cgroup_names) == [""] else 1 + len(cgroup_names)
    return 1 if m.kind in {PARENT, DEV} else 0


def extents(mappings: Sequence[IDMapping]) -> list[ns.Extent]:
    return [(m.container_id, m.host_id, m.size) for m in mappings]


def plan(container_id: str, bundle: str, spec: Spec, *, no_pivot: bool = False, no_new_keyring: bool = False) -> Plan:
    """Check a spec for this engine. Raises InvalidArgument, Unsupported or FailedPrecondition naming the field."""
    linux = spec.linux
    if linux is None:
        raise InvalidArgument(
            "read config.json: it has no `linux` part", hint="this runtime runs Linux containers only"
        )
    if spec.process is None:
        raise InvalidArgument("read config.json: it has no `process`")
    if not spec.oci_version.startswith("1."):
        raise Unsupported(f"read config.json: ociVersion `{spec.oci_version}`", hint="1.x is understood")
    _refuse(spec)
    new, joins = _namespaces(spec)
    program, flags = compiled(linux.seccomp) if linux.seccomp is not None else (b"", 0)
    clone = sum(ns.FLAGS[t] for t in new if t in {"user", "mount", "pid"})
    unshare = sum(ns.FLAGS[t] for t in new if t in {"network", "ipc", "uts"})
    own = frozenset({*new, *(t for t, _ in joins)})
    persona = None
    if linux.personality is not None:
        if linux.personality.flags or linux.personality.domain not in _PERSONALITIES:
            raise InvalidArgument(f"read personality: `{linux.personality.domain}` {linux.personality.flags}")
        persona = _PERSONALITIES[linux.personality.domain]
    return Plan(
        container_id=container_id,
        bundle=bundle,
        spec=spec,
        process=plan_process(spec.process, seccomp=program, seccomp_flags=flags),
        clone_flags=clone,
        unshare_flags=unshare,
        cgroup_namespace="cgroup" in new,
        joins=joins,
        own=own,
        uid_map=extents(linux.uid_mappings),
        gid_map=extents(linux.gid_mappings),
        mounts=[_mount(m, spec, own, bundle) for m in spec.mounts],
        sysctls=_sysctls(linux.sysctl, own),
        hooks=spec.hooks or Hooks(),
        root_propagation=_root_propagation(linux.rootfs_propagation),
        root_read_only=spec.root is not None and spec.root.readonly,
        persona=persona,
        no_pivot=no_pivot,
        no_new_keyring=no_new_keyring,
    )


def _refuse(spec: Spec) -> None:
    linux, process = spec.linux, spec.process
    assert linux is not None
    assert process is not None
    if linux.intel_rdt is not None:
        raise Unsupported("read config.json: linux.intelRdt is not supported")
    if linux.net_devices:
        raise Unsupported("read config.json: linux.netDevices is not supported")
    if process.apparmor_profile and not os.path.exists("/sys/kernel/security/apparmor"):
        raise FailedPrecondition(
            f"apply AppArmor profile `{process.apparmor_profile}`: the host has no AppArmor",
            hint="leave it out (--security-opt apparmor=unconfined)",
        )
    if (process.selinux_label or linux.mount_label) and not os.path.exists("/sys/fs/selinux/enforce"):
        raise FailedPrecondition(f"apply SELinux label `{process.selinux_label}`: the host has no SELinux")


def _namespaces(spec: Spec) -> tuple[list[str], list[tuple[str, str]]]:
    linux = spec.linux
    assert linux is not None
    new: list[str] = []
    joins: list[tuple[str, str]] = []
    for entry in linux.namespaces:
        if entry.type not in ns.FLAGS:
            raise InvalidArgument(f"read namespaces: unknown type `{entry.type}`")
        if entry.type in new or any(t == entry.type for t, _ in joins):
            raise InvalidArgument(f"read namespaces: `{entry.type}` is there twice")
        if entry.path:
            if not entry.path.startswith("/"):
                raise InvalidArgument(f"read namespaces: path `{entry.path}` is not absolute")
            joins.append((entry.type, entry.path))
        else:
            new.append(entry.type)
    if "mount" not in new:
        raise Unsupported("read namespaces: a new `mount` namespace is needed")
    if "user" in new and not (linux.uid_mappings and linux.gid_mappings):
        raise InvalidArgument("read namespaces: a new `user` namespace needs uidMappings and gidMappings")
    if (linux.uid_mappings or linux.gid_mappings) and not ("user" in new or any(t == "user" for t, _ in joins)):
        raise InvalidArgument("read uidMappings: there is no `user` namespace")
    own = {*new, *(t for t, _ in joins)}
    if (spec.hostname or spec.domainname) and "uts" not in own:
        raise InvalidArgument("set hostname: it needs a `uts` namespace")
    if linux.time_offsets and "time" not in new:
        raise InvalidArgument("set timeOffsets: they need a new `time` namespace")
    return new, joins


def _mount(m: Mount, spec: Spec, own: frozenset[str], bundle: str) -> MountPlan:
    if not m.destination:
        raise InvalidArgument("read mounts: a destination is empty")
    destination = os.path.normpath("/" + m.destination.lstrip("/"))
    options = parse(m.options)
    fs_type = m.type or ("bind" if options.bind else "")
    if options.bind or fs_type == "bind":
        fs_type = "bind"
    if not fs_type or fs_type == "none":
        raise InvalidArgument(f"read mounts: `{m.destination}` has no type")
    linux = spec.linux
    assert linux is not None
    if "\0" in destination or "\0" in m.source:
        raise InvalidArgument(f"read mounts: NUL byte in `{m.destination!r}`")
    if fs_type == "bind":
        if not m.source:
            raise InvalidArgument(f"read mounts: bind on `{m.destination}` has no source")
        if options.data or options.superblock:
            words = ",".join((*options.data, *options.superblock))
            raise InvalidArgument(f"read mounts: option `{words}` of bind on `{m.destination}` means nothing")
        kind = PARENT
    elif fs_type in {"cgroup", "cgroup2"}:
        kind = CGROUP
    elif destination == "/dev" and fs_type == "tmpfs":
        kind = DEV
    elif fs_type == "sysfs" and (
        "network" not in own or ("user" in own and any(n.type == "network" and n.path for n in linux.namespaces))
    ):
        # A user namespace may not mount sysfs for a network namespace that it does not own: show the host's.
        kind = PARENT if "user" in own else CHILD
    else:
        kind = CHILD if fs_type in _CHILD_TYPES else PARENT
    if destination == "/proc" or destination.startswith("/proc/"):
        _check_proc(destination, fs_type, m.source)
    uid_map, gid_map = extents(m.uid_mappings), extents(m.gid_mappings)
    if options.idmap and not uid_map:
        uid_map, gid_map = extents(linux.uid_mappings), extents(linux.gid_mappings)
        if not uid_map:
            raise InvalidArgument(f"read mounts: `{options.idmap}` on `{m.destination}` without mappings")
    if bool(uid_map) != bool(gid_map):
        raise InvalidArgument(f"read mounts: `{m.destination}` needs both uidMappings and gidMappings")
    source = m.source
    if fs_type == "bind" and not source.startswith("/"):
        source = os.path.join(bundle, source)
    return MountPlan(kind, destination, fs_type, source, options, tuple(uid_map), tuple(gid_map))


def _check_proc(destination: str, fs_type: str, source: str) -> None:
    """Nothing but procfs may lie at /proc, or labels and sysctls would be written into something else (CVE-2019-16884)."""
    if destination == "/proc":
        if fs_type == "proc" or (fs_type == "bind" and os.path.normpath(source) == "/proc"):
            return
        raise InvalidArgument(
            f"mount `{source}` on `/proc`: only procfs may be there", hint="choose another path for this volume"
        )
    if destination not in _PROC_FILES:
        raise InvalidArgument(f"mount `{source}` on `{destination}`: nothing may be mounted inside /proc")


def _sysctls(wanted: dict[str, str], own: frozenset[str]) -> list[tuple[str, str]]:
    """Only what belongs to a namespace of the container. The names end up as relative paths below sys/."""
    found = []
    for name, value in wanted.items():
        key = name.replace("/", ".") if "/" in name.split(".", maxsplit=1)[0] else name
        if key in _IPC_SYSCTLS or key.startswith("fs.mqueue."):
            needs = "ipc"
        elif key.startswith("net."):
            needs = "network"
        elif key == "kernel.domainname":
            needs = "uts"
        else:
            raise InvalidArgument(f"set sysctl `{name}`: it is not separate for a container", hint="set it on the host")
        if needs not in own:
            raise InvalidArgument(f"set sysctl `{name}`: the container shares the host's {needs} namespace")
        path = key.replace(".", "/") if "/" not in key else key.replace("/", "\0").replace(".", "/").replace("\0", ".")
        if ".." in path.split("/") or "\0" in value:
            raise InvalidArgument(f"set sysctl `{name}`: malformed")
        found.append((path, value))
    return found


def _root_propagation(word: str) -> int:
    bare = word[1:] if word[:1] == "r" and word[1:] in _PROPAGATION else word
    if bare not in _PROPAGATION:
        raise InvalidArgument(f"read rootfsPropagation: `{word}`")
    return _PROPAGATION[bare] | (_MS_REC if bare != word else 0)
