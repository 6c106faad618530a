# SPDX-License-Identifier: Apache-2.0
"""`--init`: a process 1 of some 300 bytes that reaps orphans and passes signals on, written here as machine code.

No program of the host is needed for it and none becomes visible in the container; it is passed by descriptor. It runs
`init PATH ARG0 ARGS…`: forks, gives the child a process group of its own (in the foreground of a terminal), waits for
signals with all of them blocked, and ends with the child's exit code, 128+n after a signal, 126/127 if execve fails.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import fcntl
import os
import struct

from wharfie.errdefs import Unsupported
from wharfie.linux import libc

_BASE = 0x400000
_EM = {"x86_64": 62, "aarch64": 183}
_MFD_EXEC = 0x10


class _X86:
    """Code for x86-64. Registers: r12 child, r13 first stack pointer, r14 environment, r15 full signal mask."""

    def __init__(self) -> None:
        self.code = bytearray()
        self.labels: dict[str, int] = {}
        self.fixes: list[tuple[int, str]] = []

    def raw(self, text: str) -> None:
        self.code += bytes.fromhex(text)

    def call(self, number: int) -> None:
        self.code += b"\xb8" + struct.pack("<I", number) + b"\x0f\x05"  # mov eax, number; syscall

    def jump(self, opcode: str, label: str) -> None:
        self.raw(opcode)
        self.fixes.append((len(self.code), label))
        self.code += b"\0\0\0\0"

    def label(self, name: str) -> None:
        self.labels[name] = len(self.code)

    def link(self) -> bytes:
        for at, label in self.fixes:
            self.code[at : at + 4] = struct.pack("<i", self.labels[label] - at - 4)
        return bytes(self.code)


def _x86_64() -> bytes:
    a = _X86()
    jz, jne, jle, jmp = "0f84", "0f85", "0f8e", "e9"
    a.raw("4989e5")  # mov r13, rsp
    a.raw("488b0c24")  # mov rcx, [rsp]: argc
    a.raw("4c8d74cc10")  # lea r14, [rsp+rcx*8+16]: envp
    a.raw("6aff 4989e7")  # push -1; mov r15, rsp: every signal
    a.raw("6a00")  # push 0: room for the old mask, later for a wait status
    a.raw("31ff 4c89fe 4889e2 41ba08000000")  # SIG_BLOCK, r15, rsp, 8
    a.call(14)  # rt_sigprocmask
    a.call(57)  # fork
    a.raw("85c0")
    a.jump(jz, "child")
    a.raw("4189c4")  # mov r12d, eax
    a.label("wait")
    a.raw("4c89ff 31f6 31d2 41ba08000000")  # r15, no info, no timeout, 8
    a.call(128)  # rt_sigtimedwait
    a.raw("85c0")
    a.jump(jle, "wait")
    a.raw("83f811")  # cmp eax, SIGCHLD
    a.jump(jz, "reap")
    a.raw("89c6 4489e7")  # kill(child, signal)
    a.call(62)
    a.jump(jmp, "wait")
    a.label("reap")
    a.raw("bfffffffff 4889e6 ba01000000 4531d2")  # -1, rsp, WNOHANG, no rusage
    a.call(61)  # wait4
    a.raw("85c0")
    a.jump(jle, "wait")
    a.raw("4439e0")  # cmp eax, r12d
    a.jump(jne, "reap")
    a.raw("8b0424 89c7 83e77f")  # mov eax, [rsp]; mov edi, eax; and edi, 0x7f
    a.jump(jz, "exited")
    a.raw("81c780000000")  # add edi, 128
    a.jump(jmp, "quit")
    a.label("exited")
    a.raw("89c7 c1ef08 81e7ff000000")  # edi = eax >> 8 & 0xff
    a.label("quit")
    a.call(231)  # exit_group
    a.label("child")
    a.raw("31ff 31f6")
    a.call(109)  # setpgid(0, 0)
    a.call(39)  # getpid
    a.raw("50 31ff be10540000 4889e2")  # push rax; ioctl(0, TIOCSPGRP, rsp)
    a.call(16)
    a.raw("58 bf02000000 4889e6 31d2 41ba08000000")  # pop rax; SIG_SETMASK, rsp: the old mask
    a.call(14)
    a.raw("498b7d10 498d7518 4c89f2")  # execve(argv[1], argv+2, envp)
    a.call(59)
    a.raw("83f8fe bf7f000000")  # cmp eax, -ENOENT; 127
    a.jump(jz, "quit")
    a.raw("bf7e000000")  # 126
    a.jump(jmp, "quit")
    return a.link()


class _Arm:
    """Code for aarch64. x19 child, x20 first stack pointer, x21 environment, x22 full signal mask, x8 call number."""

    EQ, NE, LE = 0, 1, 13

    def __init__(self) -> None:
        self.words: list[int] = []
        self.labels: dict[str, int] = {}
        self.fixes: list[tuple[int, str, str]] = []

    def mov(self, rd: int, value: int) -> None:
        """Immediate: 0 … 65535, or -1 … -65536 (movn)."""
        self.words.append(0xD2800000 | value << 5 | rd if value >= 0 else 0x92800000 | ~value << 5 | rd)

    def copy(self, rd: int, rm: int) -> None:
        self.words.append(0xAA0003E0 | rm << 16 | rd)

    def add(self, rd: int, rn: int, value: int) -> None:
        """ADD immediate; register 31 is the stack pointer."""
        self.words.append(0x91000000 | value << 10 | rn << 5 | rd)

    def sub(self, rd: int, rn: int, value: int) -> None:
        self.words.append(0xD1000000 | value << 10 | rn << 5 | rd)

    def load(self, rt: int, rn: int, offset: int) -> None:
        self.words.append(0xF9400000 | offset // 8 << 10 | rn << 5 | rt)

    def load32(self, rt: int, rn: int, offset: int) -> None:
        self.words.append(0xB9400000 | offset // 4 << 10 | rn << 5 | rt)

    def store(self, rt: int, rn: int, offset: int) -> None:
        self.words.append(0xF9000000 | offset // 8 << 10 | rn << 5 | rt)

    def compare(self, rn: int, value: int) -> None:
        """CMP (32 bit) with an immediate; negative by CMN."""
        self.words.append(0x7100001F | value << 10 | rn << 5 if value >= 0 else 0x3100001F | -value << 10 | rn << 5)

    def compare_registers(self, rn: int, rm: int) -> None:
        self.words.append(0x6B00001F | rm << 16 | rn << 5)

    def call(self, number: int) -> None:
        self.mov(8, number)
        self.words.append(0xD4000001)

    def branch(self, label: str, condition: int | None = None) -> None:
        self.fixes.append((len(self.words), label, "b" if condition is None else "cond"))
        self.words.append(0x14000000 if condition is None else 0x54000000 | condition)

    def label(self, name: str) -> None:
        self.labels[name] = len(self.words)

    def link(self) -> bytes:
        for at, label, kind in self.fixes:
            distance = self.labels[label] - at
            self.words[at] |= distance & 0x3FFFFFF if kind == "b" else (distance & 0x7FFFF) << 5
        return struct.pack(f"<{len(self.words)}I", *self.words)


def _aarch64() -> bytes:
    a = _Arm()
    sp = 31
    a.add(20, sp, 0)
    a.load(9, sp, 0)
    a.words.append(0x8B090E95)  # add x21, x20, x9, lsl #3
    a.add(21, 21, 16)
    a.sub(sp, sp, 16)
    a.mov(9, -1)
    a.store(9, sp, 8)
    a.add(22, sp, 8)
    a.mov(9, 0)
    a.store(9, sp, 0)
    a.mov(0, 0)
    a.copy(1, 22)
    a.add(2, sp, 0)
    a.mov(3, 8)
    a.call(135)  # rt_sigprocmask(SIG_BLOCK, all, old)
    a.mov(0, 17)
    for register in (1, 2, 3, 4):
        a.mov(register, 0)
    a.call(220)  # clone(SIGCHLD)
    a.compare(0, 0)
    a.branch("child", a.EQ)
    a.copy(19, 0)
    a.label("wait")
    a.copy(0, 22)
    a.mov(1, 0)
    a.mov(2, 0)
    a.mov(3, 8)
    a.call(137)  # rt_sigtimedwait
    a.compare(0, 0)
    a.branch("wait", a.LE)
    a.compare(0, 17)
    a.branch("reap", a.EQ)
    a.copy(1, 0)
    a.copy(0, 19)
    a.call(129)  # kill
    a.branch("wait")
    a.label("reap")
    a.mov(0, -1)
    a.add(1, sp, 0)
    a.mov(2, 1)
    a.mov(3, 0)
    a.call(260)  # wait4(-1, sp, WNOHANG)
    a.compare(0, 0)
    a.branch("wait", a.LE)
    a.compare_registers(0, 19)
    a.branch("reap", a.NE)
    a.load32(9, sp, 0)
    a.words.append(0x12001920)  # and w0, w9, #0x7f
    a.compare(0, 0)
    a.branch("exited", a.EQ)
    a.add(0, 0, 128)
    a.branch("quit")
    a.label("exited")
    a.words.append(0x53083D20)  # ubfx w0, w9, #8, #8
    a.label("quit")
    a.call(94)  # exit_group
    a.label("child")
    a.mov(0, 0)
    a.mov(1, 0)
    a.call(154)  # setpgid
    a.call(172)  # getpid
    a.sub(sp, sp, 16)
    a.store(0, sp, 0)
    a.mov(0, 0)
    a.mov(1, 0x5410)
    a.add(2, sp, 0)
    a.call(29)  # ioctl(0, TIOCSPGRP, sp)
    a.add(sp, sp, 16)
    a.mov(0, 2)
    a.add(1, sp, 0)
    a.mov(2, 0)
    a.mov(3, 8)
    a.call(135)  # rt_sigprocmask(SIG_SETMASK, old)
    a.load(0, 20, 16)
    a.add(1, 20, 24)
    a.copy(2, 21)
    a.call(221)  # execve(argv[1], argv+2, envp)
    a.copy(9, 0)
    a.mov(0, 127)
    a.compare(9, -2)
    a.branch("quit", a.EQ)
    a.mov(0, 126)
    a.branch("quit")
    return a.link()


def elf(machine: str = libc.MACHINE) -> bytes:
    """The program as a static ELF file. Raises Unsupported for an architecture without one."""
    if machine not in _EM:
        raise Unsupported(f"make init program: there is none for {machine}", hint="leave --init out")
    code = _x86_64() if machine == "x86_64" else _aarch64()
    size = 64 + 56 + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, _EM[machine], 1, _BASE + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


def descriptor() -> int:
    """A sealed memfd holding the program."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("init", flags | _MFD_EXEC)
    except OSError:
        fd = os.memfd_create("init", flags)
    os.write(fd, elf())
    os.fchmod(fd, 0o555)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    return fd
