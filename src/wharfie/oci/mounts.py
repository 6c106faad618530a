# SPDX-License-Identifier: Apache-2.0
"""-v, --mount, --tmpfs and image volumes -> MountRequest (`parse_mounts`); requests with host paths -> spec mounts.

A container path is cleaned as text only (posixpath); what links the root file system has there is for the runtime,
which walks beneath the root.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from typing import NamedTuple

from wharfie.errdefs import InvalidArgument, Unsupported
from wharfie.spec import docker

PROPAGATIONS = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_CONSISTENCY = frozenset({"", "default", "consistent", "cached", "delegated"})
"""Hints for Docker Desktop's file sharing: on Linux every mount is consistent, so all of them hold."""
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}", re.ASCII)
_PROC_FILES = frozenset(
    f"/proc/{name}"
    for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "net/dev", "slabinfo", "stat", "swaps", "uptime")
)
"""What lxcfs and its like replace; anything else below /proc would hide what the runtime relies on (CVE-2019-16884)."""
_TMPFS_FLAGS = frozenset({
    "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync", "atime", "noatime",
    "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime", "noswap", *PROPAGATIONS,
})  # fmt: skip
_TMPFS_VALUES = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge"})


class MountRequest(NamedTuple):
    """One mount as asked for, from whatever flag. `options` are mount(8) words of a tmpfs.

    `type`: bind, volume, tmpfs. `source`: host path, volume name or "" (anonymous volume).
    `create_source`: make a missing host directory (-v does, --mount does not).
    `propagation`: "" is rprivate. `recursive_readonly`: "" where the kernel can, "no", "force". `label`: "", "z", "Z".
    `origin`: binds, mounts, tmpfs, image (VOLUME), config (Volumes of the request).
    """

    type: str
    source: str
    target: str
    readonly: bool = False
    propagation: str = ""
    recursive: bool = True
    recursive_readonly: str = ""
    create_source: bool = False
    nocopy: bool = False
    subpath: str = ""
    driver: str = ""
    driver_opts: dict[str, str] = {}  # noqa: RUF012
    labels: dict[str, str] = {}  # noqa: RUF012
    label: str = ""
    options: tuple[str, ...] = ()
    origin: str = "binds"


class ResolvedMount(NamedTuple):
    """A MountRequest whose source is a host path now (binds and volumes alike; "" for tmpfs).

    `idmap`: map ownership with the container's id range; False where the file system cannot (owners show as 65534).
    """

    request: MountRequest
    source: str = ""
    idmap: bool = True


def clean_target(target: str, what: str) -> str:
    """The absolute, normalised container path. Raises InvalidArgument: empty, relative, the root, control characters."""
    if not target.startswith("/") or any(ord(c) < 32 for c in target):
        raise InvalidArgument(f"mount {what}: container path {target!r} is not absolute", hint="as in -v data:/data")
    path = "/" + posixpath.normpath(target).lstrip("/")
    if path == "/":
        raise InvalidArgument(f"mount {what}: a mount cannot replace the container's root")
    return path


def _check_proc(r: MountRequest) -> MountRequest:
    if r.target == "/proc" and r.type == "bind" and r.source == "/proc":
        return r
    if r.target == "/proc" or (r.target.startswith("/proc/") and (r.type != "bind" or r.target not in _PROC_FILES)):
        raise InvalidArgument(
            f"mount {r.source or r.type!r} on {r.target!r}: nothing may hide the container's /proc",
            hint="mount it elsewhere"
            if r.origin != "image"
            else "the image's VOLUME asks for it: do not run this image",
        )
    return r


def volume_name(name: str) -> str:
    """Raises InvalidArgument unless `name` may name a volume (it becomes a directory)."""
    if not _VOLUME_NAME.fullmatch(name):
        raise InvalidArgument(
            f"read volume name {name!r}: it is made of letters, digits, '_', '.', '-' and begins with a letter or digit",
            hint="for a host directory give an absolute path",
        )
    return name


def parse_bind(text: str, driver: str = "") -> MountRequest:
    """`[source:]target[:options]` of -v. Raises InvalidArgument."""
    parts = text.split(":")
    if len(parts) > 3 or not parts[-1 if len(parts) == 1 else 1]:
        raise InvalidArgument(f"mount {text!r}: it is not [source:]target[:options]")
    source, target = ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])
    if len(parts) > 1 and not source:
        raise InvalidArgument(f"mount {text!r}: its source is empty")
    is_bind = source.startswith("/")
    if source and not is_bind:
        volume_name(source)
    readonly, label, nocopy, propagation, seen = False, "", False, "", set[str]()
    for word in parts[2].split(",") if len(parts) == 3 else ():
        kind = word
        if word in {"ro", "rw", "rro"}:
            kind, readonly = "rw", word != "rw"
        elif word in {"z", "Z"}:
            kind, label = "label", word
        elif word in PROPAGATIONS and is_bind:
            kind, propagation = "propagation", word
        elif word == "nocopy" and not is_bind:
            nocopy = True
        elif word and word in _CONSISTENCY:
            kind = "consistency"
        else:
            raise InvalidArgument(
                f"mount {text!r}: option {word!r} is not known for a {'bind' if is_bind else 'volume'}"
            )
        if kind in seen:
            raise InvalidArgument(f"mount {text!r}: options say the same thing twice ({word!r})")
        seen.add(kind)
    return MountRequest(
        "bind" if is_bind else "volume",
        posixpath.normpath(source) if is_bind else source,
        clean_target(target, repr(text)),
        readonly=readonly,
        propagation=propagation,
        create_source=is_bind,
        nocopy=nocopy,
        driver="" if is_bind else driver,
        label=label,
    )


def tmpfs_options(text: str) -> tuple[str, ...]:
    """Options of --tmpfs, checked. Raises InvalidArgument."""
    words = tuple(filter(None, text.split(",")))
    for word in words:
        key, eq, value = word.partition("=")
        if (eq and (key not in _TMPFS_VALUES or not value)) or (not eq and word not in _TMPFS_FLAGS):
            raise InvalidArgument(
                f"mount tmpfs: option {word!r} is not known", hint="as in --tmpfs /run:size=64m,mode=755"
            )
    return words


def _from_mount(m: docker.Mount) -> MountRequest:
    what = f"{m.type} {m.source!r} on {m.target!r}"
    target = clean_target(m.target, what)
    if m.consistency not in _CONSISTENCY:
        raise InvalidArgument(f"mount {what}: consistency {m.consistency!r} is not known")
    allowed = {"bind": m.bind_options, "volume": m.volume_options, "tmpfs": m.tmpfs_options, "image": m.image_options}
    for kind, options in allowed.items():
        if options is not None and kind != m.type and options != type(options)():
            raise InvalidArgument(f"mount {what}: {kind} options do not fit a mount of type {m.type!r}")
    if m.type == "bind":
        return _bind_mount(m, what, target)
    if m.type == "volume":
        v = m.volume_options or docker.VolumeOptions()
        driver = v.driver_config or docker.DriverConfig()
        if m.source:
            volume_name(m.source)
        if v.subpath and (v.subpath.startswith("/") or ".." in v.subpath.split("/")):
            raise InvalidArgument(f"mount {what}: subpath {v.subpath!r} must be relative and stay inside the volume")
        return MountRequest(
            "volume", m.source, target, readonly=m.read_only, nocopy=v.no_copy, subpath=v.subpath, driver=driver.name,
            driver_opts=driver.options or {}, labels=v.labels or {}, origin="mounts",
        )  # fmt: skip
    if m.type == "tmpfs":
        if m.source:
            raise InvalidArgument(f"mount {what}: a tmpfs has no source")
        return MountRequest("tmpfs", "", target, readonly=m.read_only, options=_tmpfs_words(m, what), origin="mounts")
    if m.type in {"image", "npipe", "cluster"}:
        raise Unsupported(
            f"mount {what}: mounts of type {m.type} are not supported here", hint="use bind, volume or tmpfs"
        )
    raise InvalidArgument(f"mount {what}: type {m.type!r} is not known", hint="use bind, volume or tmpfs")


def _bind_mount(m: docker.Mount, what: str, target: str) -> MountRequest:
    b = m.bind_options or docker.BindOptions()
    if not m.source.startswith("/"):
        raise InvalidArgument(f"mount {what}: a bind's source is an absolute host path")
    if b.propagation and b.propagation not in PROPAGATIONS:
        raise InvalidArgument(f"mount {what}: propagation {b.propagation!r} is not known")
    if (b.read_only_force_recursive or b.read_only_non_recursive) and not m.read_only:
        raise InvalidArgument(f"mount {what}: recursive read-only options need a read-only mount")
    if b.read_only_force_recursive and (b.read_only_non_recursive or b.non_recursive):
        raise InvalidArgument(f"mount {what}: ReadOnlyForceRecursive excludes the non-recursive options")
    if b.read_only_force_recursive and b.propagation not in {"private", "rprivate"}:
        raise InvalidArgument(f"mount {what}: ReadOnlyForceRecursive needs propagation rprivate")
    return MountRequest(
        "bind", posixpath.normpath(m.source), target, readonly=m.read_only, propagation=b.propagation,
        recursive=not b.non_recursive,
        recursive_readonly="force" if b.read_only_force_recursive else "no" if b.read_only_non_recursive else "",
        create_source=b.create_mountpoint, origin="mounts",
    )  # fmt: skip


def _tmpfs_words(m: docker.Mount, what: str) -> tuple[str, ...]:
    t = m.tmpfs_options or docker.TmpfsOptions()
    if t.size_bytes < 0 or not 0 <= t.mode <= 0o7777:
        raise InvalidArgument(f"mount {what}: tmpfs size {t.size_bytes} or mode {t.mode:o} is out of range")
    words = [f"mode={t.mode:o}"] if t.mode else []
    words += [f"size={t.size_bytes}"] if t.size_bytes else []
    for option in t.options or ():
        if not 1 <= len(option) <= 2:
            raise InvalidArgument(f"mount {what}: tmpfs option {option!r} is not [key] or [key, value]")
        words.append("=".join(option))
    return tmpfs_options(",".join(words))


def parse_mounts(body: docker.ContainerCreateBody, config: docker.Config) -> list[MountRequest]:
    """Everything that the request and the merged `config` mount, sorted so that parents come first.

    An image's VOLUME yields to an explicit mount on the same path; two explicit ones on one path are an error.
    Raises InvalidArgument, Unsupported.
    """
    host = body.host_config
    explicit = [parse_bind(text, host.volume_driver) for text in host.binds or ()]
    explicit += [_from_mount(m) for m in host.mounts or ()]
    explicit += [
        MountRequest("tmpfs", "", clean_target(path, "tmpfs"), options=tmpfs_options(text or ""), origin="tmpfs")
        for path, text in (host.tmpfs or {}).items()
    ]
    by_target: dict[str, MountRequest] = {}
    for request in explicit:
        if request.target in by_target:
            raise InvalidArgument(f"mount on {request.target!r}: two mounts want the same path")
        by_target[request.target] = request
    own = body.volumes or {}
    for path in config.volumes or {}:
        origin = "config" if path in own else "image"
        target = clean_target(path if path.startswith("/") or not path else f"/{path}", f"volume {path!r}")
        by_target.setdefault(target, MountRequest("volume", "", target, driver=host.volume_driver, origin=origin))
    return sorted((_check_proc(r) for r in by_target.values()), key=lambda r: r.target.count("/"))


def volumes_from(words: Iterable[str] | None) -> list[tuple[str, bool]]:
    """--volumes-from entries: (container, read-only). Raises InvalidArgument."""
    found = []
    for text in words or ():
        container, _, mode = text.partition(":")
        if not container or mode not in {"", "ro", "rw", "z", "Z", "ro,z", "ro,Z", "rw,z", "rw,Z"}:
            raise InvalidArgument(f"read volumes-from {text!r}: it is not container[:ro]")
        found.append((container, mode.startswith("ro")))
    return found
