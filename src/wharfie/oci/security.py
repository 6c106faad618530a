# SPDX-License-Identifier: Apache-2.0
"""--security-opt, and what of /proc and /sys a container must not see or write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from wharfie.errdefs import FailedPrecondition, InvalidArgument, Unsupported
from wharfie.oci.facts import HostFacts

MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
    "/sys/firmware",
)  # fmt: skip
"""Host secrets and side channels: kernel memory, keys, timers, energy and interrupt counters, firmware tables."""
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""Writable by root and not namespaced."""


class SecurityOptions(NamedTuple):
    """`seccomp`: "" the default profile, "unconfined", or a profile's JSON. `apparmor`: profile name or ""."""

    no_new_privileges: bool = False
    seccomp: str = ""
    apparmor: str = ""
    system_paths_unconfined: bool = False
    writable_cgroups: bool = False


_BOOLEANS = {"": True, "true": True, "1": True, "false": False, "0": False}


def _flag(key: str, value: str) -> bool:
    if value not in _BOOLEANS:
        raise InvalidArgument(f"read security-opt {key}={value!r}: it is true or false")
    return _BOOLEANS[value]


def _seccomp(value: str, host: HostFacts) -> str:
    if value in {"builtin", "unconfined"}:
        return "" if value == "builtin" else value
    if not value.lstrip().startswith("{"):
        raise InvalidArgument(
            f"read security-opt seccomp={value[:60]!r}: it is not unconfined, builtin or a profile's JSON",
            hint="the client reads the file and sends its content",
        )
    if not host.seccomp:
        raise FailedPrecondition("use seccomp profile: this kernel has no seccomp", hint="seccomp=unconfined")
    return value


def parse_security_opts(words: Iterable[str] | None, host: HostFacts) -> SecurityOptions:
    """`key=value` words (`key:value` is the old spelling). Raises InvalidArgument, Unsupported, FailedPrecondition."""
    found = SecurityOptions()
    for text in words or ():
        cut = min((i for i in (text.find("="), text.find(":")) if i >= 0), default=len(text))
        key, value = text[:cut], text[cut + 1 :]
        if key == "no-new-privileges":
            found = found._replace(no_new_privileges=_flag(key, value))
        elif key == "seccomp":
            found = found._replace(seccomp=_seccomp(value, host))
        elif key == "apparmor":
            if value not in {"unconfined", ""} and "apparmor" not in host.lsm:
                raise FailedPrecondition(
                    f"use AppArmor profile {value!r}: this host does not run AppArmor", hint="leave apparmor= out"
                )
            found = found._replace(apparmor=value)
        elif key == "systempaths":
            if value != "unconfined":
                raise InvalidArgument(f"read security-opt {text!r}: systempaths takes only unconfined")
            found = found._replace(system_paths_unconfined=True)
        elif key == "writable-cgroups":
            found = found._replace(writable_cgroups=_flag(key, value))
        elif key == "label":
            if value != "disable" and "selinux" in host.lsm:
                raise Unsupported(
                    f"use security-opt {text!r}: SELinux labels are not supported yet", hint="label=disable"
                )
            if value != "disable":
                raise FailedPrecondition(f"use security-opt {text!r}: this host does not run SELinux")
        else:
            raise InvalidArgument(
                f"read security-opt {text[:100]!r}: it is not known",
                hint="one of no-new-privileges, seccomp=, apparmor=, label=disable, systempaths=unconfined, writable-cgroups",
            )
    return found


def check_paths(what: str, paths: Iterable[str] | None) -> None:
    for path in paths or ():
        if not path.startswith("/") or ".." in path.split("/"):
            raise InvalidArgument(f"set {what} {path!r}: it is not an absolute path")
