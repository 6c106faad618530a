# SPDX-License-Identifier: Apache-2.0
"""Capability names, the default set, and --cap-add/--cap-drop (capabilities(7), Engine API HostConfig.CapAdd)."""

from __future__ import annotations

from collections.abc import Iterable

from wharfie.errdefs import FailedPrecondition, InvalidArgument
from wharfie.spec.runtime import Capabilities

ALL_CAPS = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip
"""By number: the index is the bit."""

DEFAULT_CAPS = frozenset({
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
})  # fmt: skip
"""What the field's engines leave a container by default."""

_KNOWN = frozenset(ALL_CAPS)


def capability_name(word: str) -> str:
    """`net_admin`, `NET_ADMIN` and `CAP_NET_ADMIN` -> `CAP_NET_ADMIN`; `all` -> `ALL`. Raises InvalidArgument."""
    name = word.upper()
    if name in {"ALL", "CAP_ALL"}:
        return "ALL"
    if not name.startswith("CAP_"):
        name = "CAP_" + name
    if name not in _KNOWN:
        raise InvalidArgument(
            f"read capability {word!r}: the kernel knows no such name", hint="names are listed in man 7 capabilities"
        )
    return name


def effective_caps(
    add: Iterable[str], drop: Iterable[str], *, privileged: bool, available: frozenset[str] | None
) -> tuple[str, ...]:
    """The set that a container gets, in the kernel's order.

    `available`: what the host can give (its bounding set), or None inside a user namespace of its own, where the kernel
    starts with the full set. "ALL" means all available; a capability asked for by name that is not there is an error.
    A dropped capability is gone, whatever --privileged or --cap-add ALL say; named in both lists, it is added.
    Raises InvalidArgument (name), FailedPrecondition (the host has not got it).
    """
    added = {capability_name(w) for w in add}
    dropped = {capability_name(w) for w in drop}
    everything = _KNOWN if available is None else _KNOWN & available
    if privileged or "ALL" in added:
        base = set(everything) - dropped if "ALL" not in dropped else set()
    elif "ALL" in dropped:
        base = set()
    else:
        base = (set(DEFAULT_CAPS) & everything) - dropped
    named = added - {"ALL"}
    missing = named - everything
    if missing:
        raise FailedPrecondition(
            f"add capabilities {', '.join(sorted(missing))}: the engine itself has not got them",
            hint="start wharfied with them, or give the container its own user namespace (--userns=auto)",
        )
    base |= named
    return tuple(c for c in ALL_CAPS if c in base)


def capability_sets(caps: Iterable[str], *, uid: int) -> Capabilities:
    """The five sets of a process that starts as `uid`.

    Inheritable and ambient stay empty (CVE-2022-24769). A user other than 0 has only the bounding set, as after execve.
    """
    names = list(caps)
    if uid != 0:
        return Capabilities(bounding=names)
    return Capabilities(bounding=names, effective=list(names), permitted=list(names))
