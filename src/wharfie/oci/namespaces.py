# SPDX-License-Identifier: Apache-2.0
"""--network, --pid, --ipc, --uts, --cgroupns, --userns, and how they bind each other (decisions 11).

A host namespace belongs to the host's user namespace: from inside another one its ports, sockets and sysfs are out of
reach. So any host mode and --privileged imply the host's user namespace; joining a container means joining its user
namespace too; whoever asks for both, or for two owners, is told so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from wharfie.errdefs import FailedPrecondition, InvalidArgument
from wharfie.oci.facts import HostFacts
from wharfie.spec.docker import HostConfig
from wharfie.spec.runtime import Namespace

DEFAULT_NETWORKS = frozenset({"", "default", "bridge", "nat"})


class UsernsChoice(NamedTuple):
    """`mode`: own, host, container (of `owner`). `reason` says why, for inspect: "" where it is the plain default."""

    mode: str
    owner: str = ""
    reason: str = ""


def joined(mode: str) -> str:
    """The container that `container:X` names, else ""."""
    head, colon, rest = mode.partition(":")
    return rest if colon and head == "container" else ""


def check_modes(h: HostConfig) -> None:
    """Raises InvalidArgument for a mode that no namespace has. Network names are looked up elsewhere."""
    allowed = {
        "pid": (h.pid_mode, {"", "private", "host"}),
        "ipc": (h.ipc_mode, {"", "none", "private", "shareable", "host"}),
        "uts": (h.uts_mode, {"", "private", "host"}),
        "cgroupns": (h.cgroupns_mode, {"", "private", "host"}),
        "userns": (h.userns_mode, {"", "auto", "host"}),
    }
    for what, (mode, modes) in allowed.items():
        if mode not in modes and not (what in {"pid", "ipc"} and joined(mode)):
            words = sorted(modes - {""}) + (["container:<name>"] if what in {"pid", "ipc"} else [])
            raise InvalidArgument(f"set {what} mode {mode!r}: it is not known", hint="one of " + ", ".join(words))
    if h.network_mode.startswith("container:") and not joined(h.network_mode):
        raise InvalidArgument("set network mode 'container:': the container's name is missing")


def host_namespaces(h: HostConfig) -> list[str]:
    """The flags of a request that put the container into the host's user namespace."""
    flags = ["--privileged"] if h.privileged else []
    modes = (("pid", h.pid_mode), ("network", h.network_mode), ("ipc", h.ipc_mode), ("uts", h.uts_mode))
    return flags + [f"--{what}=host" for what, mode in modes if mode == "host"]


def userns_choice(h: HostConfig, host: HostFacts, *, owner_has_userns: bool | None = None) -> UsernsChoice:
    """Whose user namespace a container runs in.

    `container:X` in `h` must be ids by now (two names of one container are one owner). `owner_has_userns`: whether that
    container has a user namespace of its own; None while nobody has looked.
    Raises InvalidArgument (contradiction), FailedPrecondition (--userns=auto on a host that cannot).
    """
    modes = (("network", h.network_mode), ("pid", h.pid_mode), ("ipc", h.ipc_mode))
    owners = {joined(mode): f"--{what}={mode}" for what, mode in modes if joined(mode)}
    implied = host_namespaces(h)
    if len(owners) > 1:
        raise InvalidArgument(
            f"choose user namespace: {' and '.join(sorted(owners.values()))} belong to different containers",
            hint="join the namespaces of one container only",
        )
    if h.userns_mode == "auto" and (implied or owners):
        raise InvalidArgument(
            f"choose user namespace: --userns=auto contradicts {' and '.join(implied or owners.values())}",
            hint="leave --userns out",
        )
    if owners:
        owner, flag = next(iter(owners.items()))
        against = ["--userns=host"] if h.userns_mode == "host" else implied
        if not against or owner_has_userns is None:
            mode = "host" if owner_has_userns is False else "container"
            return UsernsChoice(mode, owner if mode == "container" else "", f"{flag} shares the owner's")
        if owner_has_userns:
            raise InvalidArgument(
                f"choose user namespace: {flag} has its own, {' and '.join(against)} wants the host's",
                hint="start the other container with --userns=host",
            )
    if h.userns_mode == "host":
        return UsernsChoice("host", "", "--userns=host")
    if implied:
        return UsernsChoice("host", "", f"{' and '.join(implied)} needs the host's")
    if host.userns:
        if h.userns_mode == "auto":
            raise FailedPrecondition(f"make user namespace: {host.userns}", hint="--userns=host runs without")
        return UsernsChoice("host", "", host.userns)
    return UsernsChoice("own")


def namespaces(h: HostConfig, join: Mapping[str, str], *, own_userns: bool) -> list[Namespace]:
    """`linux.namespaces`. `join`: type -> path, needed for every container:X. Raises InvalidArgument where one is missing."""
    found = [Namespace("mount")]
    modes = {"network": h.network_mode, "pid": h.pid_mode, "ipc": h.ipc_mode, "uts": h.uts_mode}
    modes["cgroup"] = h.cgroupns_mode
    for kind, mode in modes.items():
        if mode == "host":
            continue
        path = join.get(kind, "")
        if joined(mode) and not path:
            raise InvalidArgument(f"join the {kind} namespace of {joined(mode)!r}: its path is not given")
        found.append(Namespace(kind, path))
    if own_userns or "user" in join:
        found.append(Namespace("user", join.get("user", "")))
    return found
