# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles of the spec (config-linux.md, "Seccomp") compiled to classic BPF, without libseccomp.

The verdicts are libseccomp's, held equal by a golden test: an architecture that the profile doesn't name, and x32 calls
where x32 isn't named, are killed; an entry without arguments wins over entries with arguments of the same call; on i386
an entry without arguments for `socket`, `semop` … counts for `socketcall` and `ipc` too. One addition, as in runc:
where calls fail by default with an errno, numbers beyond all we know fail with ENOSYS, so that programs fall back.

The program is a binary search over ranges of equal verdict, so a call costs some ten instructions instead of hundreds.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import hashlib
import os
import struct
from collections.abc import Sequence

import msgspec

from wharfie.errdefs import InvalidArgument, Unsupported
from wharfie.fsutil import atomic
from wharfie.linux import libc
from wharfie.linux import seccomp as k
from wharfie.runtime.linux.bpf import Program, Range, Rule
from wharfie.spec.runtime import Seccomp, SeccompArg, SeccompSyscall

CACHE_DIR = "/run/wharfie-oci/seccomp"
"""Compiled programs by hash of profile and table; for root alone."""

AUDIT = {"x86_64": 0xC000003E, "x86": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
_SPEC_ARCH = {
    "SCMP_ARCH_X86_64": "x86_64", "SCMP_ARCH_X86": "x86", "SCMP_ARCH_X32": "x32", "SCMP_ARCH_AARCH64": "aarch64",
    "SCMP_ARCH_ARM": "arm",
}  # fmt: skip
_FAMILY = {"x86_64": ("x86_64", "x86", "x32"), "aarch64": ("aarch64", "arm")}
_ORDER = ("x86_64", "x86", "x32", "aarch64", "arm")
_X32_BIT = 0x40000000
ACTIONS = {
    "SCMP_ACT_KILL": k.SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": k.SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": k.SECCOMP_RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": k.SECCOMP_RET_TRAP,
    "SCMP_ACT_ERRNO": k.SECCOMP_RET_ERRNO,
    "SCMP_ACT_TRACE": k.SECCOMP_RET_TRACE,
    "SCMP_ACT_ALLOW": k.SECCOMP_RET_ALLOW,
    "SCMP_ACT_LOG": k.SECCOMP_RET_LOG,
    "SCMP_ACT_NOTIFY": k.SECCOMP_RET_USER_NOTIF,
}
_EPERM, _ENOSYS = 1, 38
# i386's multiplexers: name -> first argument (linux/net.h, asm-generic/ipcbuf: linux/ipc.h)
_SOCKETCALL = {
    "socket": 1, "bind": 2, "connect": 3, "listen": 4, "accept": 5, "getsockname": 6, "getpeername": 7,
    "socketpair": 8, "send": 9, "recv": 10, "sendto": 11, "recvfrom": 12, "shutdown": 13, "setsockopt": 14,
    "getsockopt": 15, "sendmsg": 16, "recvmsg": 17, "accept4": 18, "recvmmsg": 19, "sendmmsg": 20,
}  # fmt: skip
_IPC = {
    "semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12, "msgget": 13, "msgctl": 14,
    "shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24,
}  # fmt: skip

_tables: dict[str, dict[str, int]] = {}
_memory: dict[bytes, tuple[bytes, int]] = {}
_encode = msgspec.json.Encoder().encode


def numbers(arch: str) -> dict[str, int]:
    """System call name -> number of an architecture (x32 without its bit)."""
    if not _tables:
        from wharfie.runtime.linux._generated_syscalls import TABLE

        for a in _ORDER:
            _tables[a] = {}
        for line in TABLE.splitlines():
            name, *words = line.split(" ")
            for a, word in zip(_ORDER, words, strict=True):
                if word != "-":
                    _tables[a][name] = int(word)
    return _tables[arch]


def verdict(action: str, errno_ret: int | None) -> int:
    """The filter's return value for an action. Raises InvalidArgument."""
    if action not in ACTIONS:
        raise InvalidArgument(f"read seccomp profile: unknown action `{action}`")
    value = ACTIONS[action]
    if value in (k.SECCOMP_RET_ERRNO, k.SECCOMP_RET_TRACE):
        data = _EPERM if errno_ret is None else errno_ret
        if not 0 <= data <= 0xFFFF:
            raise InvalidArgument(f"read seccomp profile: errnoRet {data} is out of range")
        return value | data
    if errno_ret:
        raise InvalidArgument(f"read seccomp profile: errnoRet with `{action}`")
    return value


def architectures(profile: Seccomp, machine: str) -> list[str]:
    """Those of the profile that this machine can run; the native one always."""
    family = _FAMILY.get(machine)
    if family is None:
        raise Unsupported(f"compile seccomp profile: no table for {machine}")
    named = {_SPEC_ARCH.get(a, "") for a in profile.architectures}
    return [a for a in family if a == machine or a in named]


def compile_profile(profile: Seccomp, machine: str = libc.MACHINE) -> bytes:
    """The filter program. Raises InvalidArgument, Unsupported."""
    default = verdict(profile.default_action, profile.default_errno_ret)
    arches = architectures(profile, machine)
    program = Program()
    program.load(4)
    blocks = [(AUDIT[a], a) for a in arches if a in AUDIT]
    for audit, _ in blocks:
        program.jump_if_equal(audit, f"arch {audit}")
    program.ret(k.SECCOMP_RET_KILL_THREAD)
    for audit, arch in blocks:
        program.label(f"arch {audit}")
        program.load(0)
        ranges = _ranges(profile, arch, default)
        if arch == "x86_64":
            # x32 calls come with x86_64's architecture and a bit in the number
            if "x32" in arches:
                ranges = [r for r in ranges if r[0] < _X32_BIT]
                ranges += [(start + _X32_BIT, rules) for start, rules in _ranges(profile, "x32", default)]
            else:
                ranges = [r for r in ranges if r[0] < _X32_BIT]
                ranges += [(_X32_BIT, [((), k.SECCOMP_RET_KILL_THREAD)]), (0xFFFFFFFF, [((), default)])]
        program.search(ranges, default, narrow_from=0 if arch in {"x86", "arm"} else _X32_BIT)
    return program.assemble()


def _ranges(profile: Seccomp, arch: str, default: int) -> list[Range]:
    """(first number, rules): each range goes to the next one's start. Neighbours of one verdict are merged."""
    by_number = _rules(profile, arch, default)
    known = max(numbers(arch).values()) if arch != "arm" else max(n for n in numbers(arch).values() if n < 0xF0000)
    plain: list[Rule] = [((), default)]
    beyond = plain
    if default & 0xFFFF0000 == k.SECCOMP_RET_ERRNO:
        beyond = [((), k.SECCOMP_RET_ERRNO | _ENOSYS)]
    ranges: list[Range] = []

    def add(start: int, rules: list[Rule]) -> None:
        if ranges and ranges[-1][0] == start:
            ranges.pop()
        if not ranges or ranges[-1][1] != rules:
            ranges.append((start, rules))

    add(0, plain)
    for number in sorted(by_number):
        if number > known and ranges[-1][0] <= known:
            add(known + 1, beyond)
        add(number, by_number[number])
        add(number + 1, plain if number < known else beyond)
    if ranges[-1][0] <= known:
        add(known + 1, beyond)
    return ranges


def _rules(profile: Seccomp, arch: str, default: int) -> dict[int, list[Rule]]:
    """Number -> rules in order, an unconditional one alone. Names that the architecture lacks are left out."""
    table = numbers(arch)
    found: dict[int, list[Rule]] = {}
    for entry in profile.syscalls:
        action = verdict(entry.action, entry.errno_ret)
        if action == default:
            continue
        conditions = _conditions(entry)
        for name in entry.names:
            if name in table:
                for c in conditions:
                    _insert(found, table[name], (c, action))
            if arch == "x86" and not entry.args:
                for multiplexer, calls in (("socketcall", _SOCKETCALL), ("ipc", _IPC)):
                    if name in calls:
                        first = SeccompArg(index=0, value=calls[name], op="SCMP_CMP_EQ")
                        _insert(found, table[multiplexer], ((first,), action))
    return found


def _insert(found: dict[int, list[Rule]], number: int, rule: Rule) -> None:
    rules = found.setdefault(number, [])
    if rules and not rules[0][0]:
        return
    if not rule[0]:
        found[number] = [rule]
    elif rule not in rules:
        rules.append(rule)


def _conditions(entry: SeccompSyscall) -> list[tuple[SeccompArg, ...]]:
    """All conditions of an entry must hold; one argument named twice makes alternatives, as in runc."""
    for arg in entry.args:
        if not 0 <= arg.index <= 5:
            raise InvalidArgument(f"read seccomp profile: argument index {arg.index} of `{entry.names}`")
        if arg.op not in Program.OPERATORS:
            raise InvalidArgument(f"read seccomp profile: unknown operator `{arg.op}`")
    if not entry.args:
        return [()]
    if len({a.index for a in entry.args}) < len(entry.args):
        return [(a,) for a in entry.args]
    return [tuple(entry.args)]


def flags_of(profile: Seccomp) -> int:
    bits = 0
    for flag in profile.flags:
        if flag not in k.FLAGS:
            raise InvalidArgument(f"read seccomp profile: unknown flag `{flag}`")
        bits |= k.FLAGS[flag]
    return bits


def uses_notify(profile: Seccomp) -> bool:
    entries: Sequence[SeccompSyscall] = profile.syscalls
    return profile.default_action == "SCMP_ACT_NOTIFY" or any(e.action == "SCMP_ACT_NOTIFY" for e in entries)


def _check_notify(profile: Seccomp) -> None:
    if not profile.listener_path:
        raise InvalidArgument("load seccomp profile: SCMP_ACT_NOTIFY without a listenerPath")
    if profile.default_action == "SCMP_ACT_NOTIFY":
        raise InvalidArgument("load seccomp profile: SCMP_ACT_NOTIFY cannot be the default action")
    for entry in profile.syscalls:
        taken = {"read", "write", "execve", "execveat", "capset"} & set(entry.names)
        if entry.action == "SCMP_ACT_NOTIFY" and taken:
            raise InvalidArgument(
                f"load seccomp profile: SCMP_ACT_NOTIFY for `{taken.pop()}`, which the start itself needs"
            )


def compiled(profile: Seccomp, cache_dir: str | None = CACHE_DIR) -> tuple[bytes, int]:
    """(program, flags), from memory, from disk, or compiled now. Raises InvalidArgument, Unsupported."""
    flags = flags_of(profile)
    if uses_notify(profile):
        _check_notify(profile)
        flags |= k.SECCOMP_FILTER_FLAG_NEW_LISTENER
    key = hashlib.sha256(libc.MACHINE.encode() + _encode(profile)).digest()
    hit = _memory.get(key)
    if hit is not None:
        return hit
    path = f"{cache_dir}/1-{key.hex()}"
    program = _cached(path) if cache_dir else b""
    if not program:
        program = compile_profile(profile)
        if cache_dir:
            try:
                os.makedirs(cache_dir, 0o700, exist_ok=True)
                atomic.write(path, hashlib.sha256(program).digest() + program, 0o600)
            except OSError:
                pass  # a cache only: a read-only /run costs a compilation each time
    _memory[key] = (program, flags)
    return program, flags


def _cached(path: str) -> bytes:
    """A program from the cache; whatever isn't whole or isn't root's is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        st = os.fstat(fd)
        data = os.read(fd, 1 << 17)
    finally:
        os.close(fd)
    good = st.st_uid == 0 and not st.st_mode & 0o022 and hashlib.sha256(data[32:]).digest() == data[:32]
    return data[32:] if good and len(data) > 32 and (len(data) - 32) % struct.calcsize("HBBI") == 0 else b""
