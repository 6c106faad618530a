# SPDX-License-Identifier: Apache-2.0
"""Mounts of a spec: the file systems that every container has, generated files, and what the request adds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wharfie.errdefs import FailedPrecondition, InvalidArgument
from wharfie.oci.facts import HostFacts
from wharfie.oci.mounts import ResolvedMount
from wharfie.spec.docker import HostConfig
from wharfie.spec.runtime import IDMapping, Mount

DEFAULT_SHM_BYTES = 64 << 20
_STAYS_WRITABLE = frozenset({"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"})


def default_mounts(h: HostConfig, *, shm_source: str, writable_cgroups: bool) -> list[Mount]:
    """proc, dev, devpts, sysfs, cgroup, mqueue and shm, as the request's modes want them.

    Raises InvalidArgument where ipc container:X comes without the owner's shm.
    """
    quiet = ["nosuid", "noexec", "nodev"]
    sys_ro = [] if h.privileged and not h.readonly_rootfs else ["ro"]
    mounts = [
        Mount("/proc", "proc", "proc", list(quiet)),
        Mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        Mount(
            "/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        Mount("/sys", "sysfs", "sysfs", [*quiet, *sys_ro]),
        Mount("/sys/fs/cgroup", "cgroup", "cgroup", [*quiet, *([] if writable_cgroups else sys_ro)]),
        Mount("/dev/mqueue", "mqueue", "mqueue", list(quiet)),
    ]
    if h.ipc_mode == "host":
        mounts.append(Mount("/dev/shm", "bind", "/dev/shm", ["rbind", "rprivate"]))
    elif h.ipc_mode.startswith("container:"):
        if not shm_source:
            raise InvalidArgument(f"join {h.ipc_mode!r}: the path of its /dev/shm is not given")
        mounts.append(Mount("/dev/shm", "bind", shm_source, ["rbind", "rprivate"]))
    elif h.ipc_mode != "none":
        size = h.shm_size or DEFAULT_SHM_BYTES
        mounts.append(Mount("/dev/shm", "tmpfs", "shm", [*quiet, "mode=1777", f"size={size}"]))
    return mounts


def _requested(m: ResolvedMount, mappings: tuple[list[IDMapping], list[IDMapping]], host: HostFacts) -> Mount:
    r = m.request
    if r.type == "tmpfs":
        own = {word.partition("=")[0] for word in r.options}
        defaults = [w for w in ("noexec", "nosuid", "nodev") if w not in own and w[2:] not in own]
        options = [*defaults, *r.options, *(["ro"] if r.readonly and "ro" not in own else [])]
        return Mount(r.target, "tmpfs", "tmpfs", options)
    options = ["rbind" if r.recursive else "bind"]
    if r.readonly:
        options.append("ro")
        if r.recursive_readonly != "no" and r.recursive and host.kernel >= (5, 12):
            options.append("rro")
        elif r.recursive_readonly == "force":
            raise FailedPrecondition(f"mount {r.source!r} read-only with all below it: this needs kernel 5.12")
    options.append(r.propagation or ("rprivate" if r.recursive else "private"))
    uid, gid = mappings if m.idmap else ([], [])
    return Mount(r.target, "bind", m.source, options, list(uid), list(gid))


def all_mounts(
    base: Sequence[Mount],
    generated: Iterable[tuple[str, str]],
    requested: Sequence[ResolvedMount],
    *,
    mappings: tuple[list[IDMapping], list[IDMapping]],
    readonly_rootfs: bool,
    host: HostFacts,
) -> list[Mount]:
    """`mounts` of the spec, parents before children. `generated`: (container path, host path), "" leaves one out.

    A requested mount replaces the default or generated one on its path; one on /dev replaces all below it too.
    """
    taken = {m.request.target for m in requested}
    kept = [
        m for m in base if m.destination not in taken and not ("/dev" in taken and m.destination.startswith("/dev/"))
    ]
    if readonly_rootfs:
        for m in kept:
            if m.destination not in _STAYS_WRITABLE and "ro" not in m.options:
                m.options.append("ro")
    uid, gid = mappings
    later = [
        Mount(target, "bind", source, ["rbind", "rprivate", *(["ro"] if readonly_rootfs else [])], list(uid), list(gid))
        for target, source in generated
        if source and target not in taken
    ]
    later += [_requested(m, mappings, host) for m in requested]
    return kept + sorted(later, key=lambda m: m.destination.count("/"))


def rootfs_propagation(requested: Iterable[ResolvedMount]) -> str:
    """The runtime's default unless a bind must pass mounts on: then the root may not be private above it."""
    words = {m.request.propagation for m in requested}
    if words & {"shared", "rshared"}:
        return "shared"
    return "rslave" if words & {"slave", "rslave"} else ""
