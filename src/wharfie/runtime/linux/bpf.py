# SPDX-License-Identifier: Apache-2.0
"""A small assembler for seccomp's classic BPF: labels, 64-bit argument tests, binary search over ranges."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import bisect
import struct
from collections.abc import Sequence

from wharfie.spec.runtime import SeccompArg

# linux/bpf_common.h
_LD_W_ABS, _AND_K, _RET_K, _JA = 0x20, 0x54, 0x06, 0x05
_JEQ_K, _JGT_K, _JGE_K = 0x15, 0x25, 0x35
_MAX_INSTRUCTIONS = 4096
_LOW = 0xFFFFFFFF


Rule = tuple[tuple[SeccompArg, ...], int]
"""(conditions that must all hold, verdict)"""
Range = tuple[int, list[Rule]]
"""(first number, rules in order); it ends where the next one starts."""


class Program:
    """Instructions in order; jumps name labels that come later (classic BPF only jumps forward)."""

    OPERATORS = frozenset(f"SCMP_CMP_{op}" for op in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))

    def __init__(self) -> None:
        self._code: list[tuple[int, str, str, int]] = []
        self._labels: dict[str, int] = {}
        self._serial = 0

    def _new(self) -> str:
        self._serial += 1
        return f"l{self._serial}"

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def load(self, offset: int) -> None:
        self._code.append((_LD_W_ABS, "", "", offset))

    def ret(self, value: int) -> None:
        self._code.append((_RET_K, "", "", value))

    def jump_if_equal(self, value: int, name: str) -> None:
        """Far jump when the accumulator equals value."""
        skip = self._new()
        self._code.append((_JEQ_K, "", skip, value))
        self._code.append((_JA, name, "", 0))
        self.label(skip)

    def search(self, ranges: Sequence[Range], default: int, narrow_from: int) -> None:
        """Find the range that the accumulator (the call's number) lies in, and decide. Returns in every branch.

        Numbers from `narrow_from` on belong to an ABI with 32-bit arguments (x32 counts as one, as in libseccomp).
        """
        if len(ranges) == 1:
            start, rules = ranges[0]
            self._decide(rules, default, 32 if start >= narrow_from else 64)
            return
        middle = len(ranges) // 2
        right, left = self._new(), self._new()
        self._code.append((_JGE_K, "", left, ranges[middle][0]))
        self._code.append((_JA, right, "", 0))
        self.label(left)
        self.search(ranges[:middle], default, narrow_from)
        self.label(right)
        self.search(ranges[middle:], default, narrow_from)

    def _decide(self, rules: list[Rule], default: int, bits: int) -> None:
        for conditions, verdict in rules:
            fail = self._new()
            for condition in conditions:
                self._test(condition, fail, bits)
            self.ret(verdict)
            if not conditions:
                return
            self.label(fail)
        self.ret(default)

    def _test(self, arg: SeccompArg, fail: str, bits: int) -> None:
        """Go on where the condition holds, to `fail` where not. struct seccomp_data: args at 16, 8 bytes each."""
        low_at, high_at = 16 + 8 * arg.index, 20 + 8 * arg.index
        op, value = arg.op[9:], arg.value & 0xFFFFFFFFFFFFFFFF
        if op == "MASKED_EQ":
            wanted = arg.value_two
            if bits == 64:
                self._masked(high_at, value >> 32, wanted >> 32 & _LOW, fail)
            self._masked(low_at, value & _LOW, wanted & _LOW, fail)
            return
        high, low = value >> 32, value & _LOW
        done = self._new()
        negated = op in {"NE", "LT", "LE"}
        yes, no = (fail, done) if negated else (done, fail)
        base = {"NE": "EQ", "LT": "GE", "LE": "GT"}.get(op, op)
        if bits == 64:
            self.load(high_at)
            if base != "EQ":
                self._code.append((_JGT_K, yes, "", high))
            self._code.append((_JEQ_K, "", no, high))
        self.load(low_at)
        self._code.append(({"EQ": _JEQ_K, "GE": _JGE_K, "GT": _JGT_K}[base], yes, no, low))
        self.label(done)

    def _masked(self, offset: int, mask: int, wanted: int, fail: str) -> None:
        self.load(offset)
        if mask != _LOW:
            self._code.append((_AND_K, "", "", mask))
        self._code.append((_JEQ_K, "", fail, wanted))

    def _shorten(self) -> None:
        """`jge; ja` becomes one jump where the target is near. Done from the end, where distances are final."""
        code, labels = self._code, self._labels
        drop = []
        for i in range(len(code) - 2, -1, -1):
            operator, yes, no, k = code[i]
            if operator in (_JGE_K, _JEQ_K) and not yes and code[i + 1][0] == _JA and labels.get(no) == i + 2:
                target = code[i + 1][1]
                if labels[target] - (i + 2) <= 250:
                    code[i] = (operator, target, "", k)
                    drop.append(i + 1)
        gone = sorted(drop)
        if not gone:
            return
        for name, position in labels.items():
            labels[name] = position - bisect.bisect_left(gone, position)
        dropped = set(gone)
        self._code = [c for i, c in enumerate(code) if i not in dropped]

    def assemble(self) -> bytes:
        """`struct sock_filter`s. Raises OverflowError where the kernel would refuse the length."""
        self._shorten()
        if len(self._code) > _MAX_INSTRUCTIONS:
            raise OverflowError(
                f"seccomp program of {len(self._code)} instructions, the kernel takes {_MAX_INSTRUCTIONS}"
            )
        out = []
        for position, (operator, yes, no, k) in enumerate(self._code):
            if operator == _JA:
                out.append(struct.pack("HBBI", operator, 0, 0, self._labels[yes] - position - 1))
                continue
            jt = self._labels[yes] - position - 1 if yes else 0
            jf = self._labels[no] - position - 1 if no else 0
            out.append(struct.pack("HBBI", operator, jt, jf, k))
        return b"".join(out)
