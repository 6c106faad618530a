# SPDX-License-Identifier: Apache-2.0
"""Seccomp: the default profile, and profiles in Docker's JSON form, as runtime-spec `linux.seccomp` documents.

Arguments are 64 bits for the filter but `int` for the kernel. So a rule that *refuses* a value must look at the low 32
bits only: `socket(0x1_0000_0026, …)` is AF_ALG too. SCMP_CMP_MASKED_EQ covers the complement of what is refused.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from wharfie.errdefs import InvalidArgument
from wharfie.oci.seccomp_calls import ALLOWED, BY_ARCHITECTURE, BY_CAPABILITY, PTRACE_SINCE_4_8
from wharfie.spec.runtime import Seccomp, SeccompArg, SeccompSyscall

_EPERM, _ENOSYS = 1, 38
_ALLOW, _ERRNO, _MASKED = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_CMP_MASKED_EQ"

ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "386": ("SCMP_ARCH_X86",),
    "amd64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "arm": ("SCMP_ARCH_ARM",),
    "arm64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "loong64": ("SCMP_ARCH_LOONGARCH64",),
    "mips64le": ("SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64N32"),
    "ppc64le": ("SCMP_ARCH_PPC64LE",),
    "riscv64": ("SCMP_ARCH_RISCV64",),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
}
"""Image architecture -> what a filter covers: the native ABI first, then its compat modes."""

_NAMESPACE_FLAGS = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, each with UNAME26, and the query."""
_SOCKET_FAMILIES = (
    (0xFFFFFFE0, 0), (0xFFFFFFFC, 32), (0xFFFFFFFE, 36), (0xFFFFFFFF, 39), (0xFFFFFFFF, 41), (0xFFFFFFFE, 42),
    (0xFFFFFFFC, 44),
)  # fmt: skip
"""(mask, value) that together cover the families 0–47 but AF_ALG (38, CVE-2026-31431) and AF_VSOCK (40: it reaches the
hypervisor around every network namespace)."""


def _masked(name: str, covers: tuple[tuple[int, int], ...], index: int = 0) -> list[SeccompSyscall]:
    return [SeccompSyscall([name], _ALLOW, args=[SeccompArg(index, mask, _MASKED, value)]) for mask, value in covers]


@lru_cache(maxsize=64)
def default_profile(architecture: str, caps: frozenset[str], kernel: tuple[int, int] = (6, 1)) -> Seccomp:
    """The profile for a container with `caps` on `architecture` (image spelling). Shared and cached: do not change it.

    Unlisted calls fail with EPERM; clone3 with ENOSYS, so that libc falls back to clone, whose flags can be read.
    Raises InvalidArgument for an architecture without a filter.
    """
    if architecture not in ARCHITECTURES:
        raise InvalidArgument(
            f"make seccomp profile: architecture {architecture!r} has none",
            hint="--security-opt seccomp=unconfined runs without",
        )
    names = set(ALLOWED)
    names.update(BY_ARCHITECTURE.get(architecture, ()))
    if kernel >= (4, 8):
        names.update(PTRACE_SINCE_4_8)
    for cap in caps:
        names.update(BY_CAPABILITY.get(cap, ()))
    rules = [SeccompSyscall(sorted(names), _ALLOW)]
    rules += _masked("socket", _SOCKET_FAMILIES)
    # The 32-bit multiplexer hides the family behind a pointer that no filter reads. It needs a rule of its own, with an
    # errno of its own: libseccomp adds socketcall(SYS_SOCKET) to what allows socket, and drops rules equal to the default.
    rules.append(SeccompSyscall(["socketcall"], _ERRNO, errno_ret=_ENOSYS))
    rules += [
        SeccompSyscall(["personality"], _ALLOW, args=[SeccompArg(0, value, "SCMP_CMP_EQ")]) for value in _PERSONALITIES
    ]
    if "CAP_SYS_ADMIN" not in caps:
        rules += _masked("clone", ((_NAMESPACE_FLAGS, 0),), index=1 if architecture == "s390x" else 0)
        rules.append(SeccompSyscall(["clone3"], _ERRNO, errno_ret=_ENOSYS))
    return Seccomp(
        default_action=_ERRNO,
        default_errno_ret=_EPERM,
        architectures=list(ARCHITECTURES[architecture]),
        syscalls=rules,
    )


class _Filter(msgspec.Struct, rename="camel"):
    caps: list[str] = []
    arches: list[str] = []
    min_kernel: str = ""


class _ArchMap(msgspec.Struct, rename="camel"):
    architecture: str
    sub_architectures: list[str] | None = None


class _Rule(msgspec.Struct, rename="camel"):
    action: str
    names: list[str] | None = None
    name: str = ""
    errno_ret: int | None = None
    errno: str = ""
    args: list[SeccompArg] | None = None
    comment: str = ""
    includes: _Filter | None = None
    excludes: _Filter | None = None


class _Profile(msgspec.Struct, rename="camel"):
    default_action: str
    default_errno_ret: int | None = None
    default_errno: str = ""
    architectures: list[str] | None = None
    arch_map: list[_ArchMap] | None = None
    syscalls: list[_Rule] | None = None
    flags: list[str] | None = None
    listener_path: str = ""
    listener_metadata: str = ""


def _min_kernel(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise InvalidArgument(f"read seccomp profile: minKernel {text!r} is not <major>.<minor>")
    return int(major), int(minor)


def _applies(rule: _Rule, architecture: str, caps: frozenset[str], kernel: tuple[int, int]) -> bool:
    """Docker's reading: `includes` needs one of the arches, all of the caps; one hit in `excludes` leaves the rule out."""
    include, exclude = rule.includes or _Filter(), rule.excludes or _Filter()
    return not (
        (include.arches and architecture not in include.arches)
        or not caps.issuperset(include.caps)
        or (include.min_kernel and kernel < _min_kernel(include.min_kernel))
        or architecture in exclude.arches
        or not caps.isdisjoint(exclude.caps)
        or (exclude.min_kernel and kernel >= _min_kernel(exclude.min_kernel))
    )


def _errno(number: int | None, name: str) -> int | None:
    if not name or number is not None:
        return number
    import errno

    value: Any = getattr(errno, name, None)
    if not isinstance(value, int):
        raise InvalidArgument(f"read seccomp profile: errno {name!r} is not known")
    return value


def load_profile(
    text: str | bytes, architecture: str, caps: frozenset[str], kernel: tuple[int, int] = (6, 1)
) -> Seccomp:
    """A profile as Docker's or podman's JSON (archMap, includes, excludes) or as plain runtime-spec.

    Raises InvalidArgument naming the field.
    """
    try:
        profile = msgspec.json.decode(text, type=_Profile)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as e:
        raise InvalidArgument(
            f"read seccomp profile: {e}", hint="the API takes the profile's JSON text, unconfined or builtin"
        ) from e
    if profile.architectures and profile.arch_map:
        raise InvalidArgument("read seccomp profile: use either architectures or archMap, not both")
    architectures = list(profile.architectures or ())
    native = ARCHITECTURES.get(architecture, ("",))[0]
    for entry in profile.arch_map or ():
        if entry.architecture == native:
            architectures = [entry.architecture, *(entry.sub_architectures or ())]
    rules = []
    for rule in profile.syscalls or ():
        if rule.name and rule.names:
            raise InvalidArgument(f"read seccomp profile: rule for {rule.name!r} has both name and names")
        names = [rule.name] if rule.name else rule.names or []
        if names and _applies(rule, architecture, caps, kernel):
            rules.append(SeccompSyscall(names, rule.action, _errno(rule.errno_ret, rule.errno), rule.args or []))
    return Seccomp(
        default_action=profile.default_action,
        default_errno_ret=_errno(profile.default_errno_ret, profile.default_errno),
        architectures=architectures,
        flags=profile.flags or [],
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
        syscalls=rules,
    )
