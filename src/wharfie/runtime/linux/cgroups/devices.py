# SPDX-License-Identifier: Apache-2.0
"""Device rules: what v1's device files take, and v2's eBPF program. Later rules win over earlier ones."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import struct
from collections.abc import Sequence
from typing import NamedTuple

from wharfie.errdefs import InvalidArgument
from wharfie.spec.runtime import DeviceCgroup


class Rule(NamedTuple):
    """`type` a, b or c; None is any number; `access` of r, w, m."""

    allow: bool
    type: str
    major: int | None
    minor: int | None
    access: str


STANDARD = [
    Rule(True, "c", 1, 3, "rwm"),  # null
    Rule(True, "c", 1, 5, "rwm"),  # zero
    Rule(True, "c", 1, 7, "rwm"),  # full
    Rule(True, "c", 1, 8, "rwm"),  # random
    Rule(True, "c", 1, 9, "rwm"),  # urandom
    Rule(True, "c", 5, 0, "rwm"),  # tty
    Rule(True, "c", 5, 2, "rwm"),  # ptmx
    Rule(True, "c", 136, None, "rwm"),  # pts
    Rule(True, "c", None, None, "m"),
    Rule(True, "b", None, None, "m"),
]
"""What every container has, as runc has it: the nodes of its /dev, terminals, and making nodes (not using them)."""


def rules(wanted: Sequence[DeviceCgroup]) -> list[Rule]:
    """The spec's rules and then the standard ones, unless the spec allows everything. Raises InvalidArgument."""
    found = []
    for d in wanted:
        kind = d.type or "a"
        access = d.access or "rwm"
        if kind not in "abc" or set(access) - set("rwm"):
            raise InvalidArgument(f"read device rule: type `{d.type}`, access `{d.access}`")
        major = None if d.major is None or d.major < 0 else d.major
        minor = None if d.minor is None or d.minor < 0 else d.minor
        found.append(Rule(d.allow, kind, major, minor, access))
    if found and found[-1].allow and allows_all(found[-1]):
        return found
    return [*found, *STANDARD]


def allows_all(rule: Rule) -> bool:
    return rule.type == "a" and rule.major is None and rule.minor is None


def v1_lines(rules: Sequence[Rule]) -> list[tuple[str, str]]:
    """(file, line) in order."""
    lines = []
    for r in rules:
        name = "devices.allow" if r.allow else "devices.deny"
        if allows_all(r):
            lines.append((name, "a"))
            continue
        kinds = ("b", "c") if r.type == "a" else (r.type,)
        major = "*" if r.major is None else str(r.major)
        minor = "*" if r.minor is None else str(r.minor)
        lines += [(name, f"{kind} {major}:{minor} {r.access}") for kind in kinds]
    return lines


# linux/bpf.h: struct bpf_cgroup_dev_ctx { u32 access_type (access << 16 | type), u32 major, u32 minor }
_ACCESS = {"m": 1, "r": 2, "w": 4}
_KIND = {"b": 1, "c": 2}


def _insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, dst | src << 4, off, imm)


_LDX_W, _AND32_K, _RSH32_K, _MOV32_K, _MOV32_X = 0x61, 0x54, 0x74, 0xB4, 0xBC
_JNE_K, _JNE_X, _EXIT = 0x55, 0x5D, 0x95


def program(rules: Sequence[Rule]) -> bytes:
    """Code (eBPF) that gives 1 to allow, 0 to deny. The last matching rule decides, so they are tried from the end.

    r2 type, r3 access, r4 major, r5 minor. A rule matches when the asked access is within its own.
    """
    out = [
        _insn(_LDX_W, 2, 1, 0),
        _insn(_MOV32_X, 3, 2),
        _insn(_RSH32_K, 3, imm=16),
        _insn(_AND32_K, 2, imm=0xFFFF),
        _insn(_LDX_W, 4, 1, 4),
        _insn(_LDX_W, 5, 1, 8),
    ]
    for r in reversed(rules):
        tests: list[bytes | tuple[int, int, int, int]] = []
        if r.type != "a":
            tests.append((_JNE_K, 2, 0, _KIND[r.type]))
        bits = sum(_ACCESS[c] for c in set(r.access))
        if bits != 7:
            if r.allow:
                # all of what is asked must be allowed: (access & bits) == access
                tests += [_insn(_MOV32_X, 1, 3), _insn(_AND32_K, 1, imm=bits), (_JNE_X, 1, 3, 0)]
            else:
                # any of what is asked is denied: skip unless (access & bits) != 0
                tests += [_insn(_MOV32_X, 1, 3), _insn(_AND32_K, 1, imm=bits), (0x15, 1, 0, 0)]
        if r.major is not None:
            tests.append((_JNE_K, 4, 0, r.major))
        if r.minor is not None:
            tests.append((_JNE_K, 5, 0, r.minor))
        size = len(tests) + 2
        for position, test in enumerate(tests):
            if isinstance(test, bytes):
                out.append(test)
            else:
                code, dst, src, imm = test
                out.append(_insn(code, dst, src, size - position - 1, imm))
        out += [_insn(_MOV32_K, 0, imm=int(r.allow)), _insn(_EXIT)]
        if not tests:
            return b"".join(out)  # it decides everything: the verifier takes no code that is never reached
    out += [_insn(_MOV32_K, 0, imm=0), _insn(_EXIT)]
    return b"".join(out)
