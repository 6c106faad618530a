# SPDX-License-Identifier: Apache-2.0
"""Our seccomp compiler gives libseccomp's verdict for every call of every architecture, and the kernel loads it."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import struct
from collections.abc import Iterator

import pytest

from wharfie.errdefs import InvalidArgument
from wharfie.linux import seccomp as kernel
from wharfie.oci.seccomp import default_profile
from wharfie.runtime.linux import seccomp
from wharfie.spec.runtime import Seccomp, SeccompArg, SeccompSyscall

ARCHES = ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")
TOKENS = {"SCMP_ARCH_X86_64": 0xC000003E, "SCMP_ARCH_X86": 0x40000003, "SCMP_ARCH_X32": 0x4000003E}
TOKENS |= {"SCMP_ARCH_AARCH64": 0xC00000B7, "SCMP_ARCH_ARM": 0x40000028}
OPS = ("", "NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
LAST_OF_2_5_4 = 450


def rule(*names: str, action: str = "SCMP_ACT_ALLOW", errno: int | None = None, args: list[SeccompArg] | None = None):
    return SeccompSyscall(list(names), action, errno, args or [])


def arg(index: int, op: str, value: int, two: int = 0) -> SeccompArg:
    return SeccompArg(index, value, f"SCMP_CMP_{op}", two)


BIG = 0x1_0000_0005
OPERATORS = Seccomp(
    "SCMP_ACT_ERRNO",
    1,
    list(ARCHES),
    syscalls=[
        rule("read", args=[arg(1, "NE", 5)]),
        rule("write", args=[arg(1, "LT", 5)]),
        rule("open", args=[arg(1, "LE", BIG)]),
        rule("close", args=[arg(0, "EQ", BIG)]),
        rule("stat", args=[arg(1, "GE", BIG)]),
        rule("fstat", args=[arg(1, "GT", 5)]),
        rule("lstat", args=[arg(2, "MASKED_EQ", 0xF0F0, 0x5050)]),
        rule("poll", args=[arg(0, "EQ", 1), arg(1, "EQ", 2), arg(5, "GT", 3)]),
        rule("personality", args=[arg(0, "EQ", 0)]),
        rule("personality", args=[arg(0, "EQ", 8)]),
        rule("personality", args=[arg(0, "EQ", 0xFFFFFFFF)]),
        rule("lseek", action="SCMP_ACT_TRAP"),
        rule("mmap", action="SCMP_ACT_KILL_PROCESS"),
        rule("brk", action="SCMP_ACT_LOG"),
        rule("ioctl", action="SCMP_ACT_TRACE", errno=7),
        rule("dup", action="SCMP_ACT_ERRNO", errno=38),
        rule("execve"),
        rule("execve", args=[arg(0, "EQ", 1)]),
        rule("no_such_call"),
        rule("semop", "getsockname"),
    ],
)
DENY = Seccomp(
    "SCMP_ACT_ALLOW",
    None,
    ["SCMP_ARCH_X86_64"],
    syscalls=[rule("keyctl", "add_key", action="SCMP_ACT_ERRNO", errno=13), rule("reboot", action="SCMP_ACT_KILL")],
)
PROFILES = {
    "default": default_profile("amd64", frozenset({"CAP_CHOWN", "CAP_NET_RAW", "CAP_MKNOD"})),
    "default-admin": default_profile("amd64", frozenset({"CAP_SYS_ADMIN", "CAP_BPF"})),
    "operators": OPERATORS,
    "deny-list": DENY,
    "kill-by-default": Seccomp("SCMP_ACT_KILL_PROCESS", None, list(ARCHES), syscalls=[rule("read", "exit_group")]),
}


@pytest.fixture(scope="module")
def lib() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp2 is not installed")
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    return lib


class _Cmp(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def by_libseccomp(lib: ctypes.CDLL, profile: Seccomp, machine: str) -> bytes:
    default = seccomp.verdict(profile.default_action, profile.default_errno_ret)
    # its SCMP_ACT_KILL_THREAD is 0, too; the other values are the kernel's
    ctx = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(default)))
    try:
        family = {"x86_64": ARCHES, "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")}[machine]
        if machine != "x86_64":
            lib.seccomp_arch_remove(ctx, ctypes.c_uint32(TOKENS["SCMP_ARCH_X86_64"]))
        for name in {NATIVE[machine], *profile.architectures} & set(family):
            lib.seccomp_arch_add(ctx, ctypes.c_uint32(TOKENS[name]))
        for entry in profile.syscalls:
            action = seccomp.verdict(entry.action, entry.errno_ret)
            if action == default:
                continue
            for name in entry.names:
                number = lib.seccomp_syscall_resolve_name(name.encode())
                if number == -1:
                    continue
                args = (_Cmp * 6)(*[_Cmp(a.index, OPS.index(a.op[9:]), a.value, a.value_two) for a in entry.args])
                rc = lib.seccomp_rule_add_array(
                    ctx, ctypes.c_uint32(action), ctypes.c_int(number), ctypes.c_uint(len(entry.args)), args
                )
                assert rc in (0, -17), (name, rc)
        lib.seccomp_attr_set(ctx, 8, 2)  # SCMP_FLTATR_CTL_OPTIMIZE: a tree, or this test takes a minute
        fd = os.memfd_create("bpf")
        try:
            assert lib.seccomp_export_bpf(ctx, fd) == 0
            return os.pread(fd, 1 << 20, 0)
        finally:
            os.close(fd)
    finally:
        lib.seccomp_release(ctx)


def decode(program: bytes) -> list[tuple[int, int, int, int]]:
    return [struct.unpack_from("HBBI", program, n) for n in range(0, len(program), 8)]


def run(code: list[tuple[int, int, int, int]], data: bytes) -> tuple[int, int]:
    """(verdict, steps) of a filter, as the kernel's interpreter would."""
    a = pc = steps = 0
    memory = [0] * 16
    while True:
        op, jt, jf, k = code[pc]
        pc += 1
        steps += 1
        if op == 0x20:
            a = struct.unpack_from("I", data, k)[0]
        elif op == 0x06:
            return k, steps
        elif op == 0x05:
            pc += k
        elif op == 0x15:
            pc += jt if a == k else jf
        elif op == 0x25:
            pc += jt if a > k else jf
        elif op == 0x35:
            pc += jt if a >= k else jf
        elif op == 0x45:
            pc += jt if a & k else jf
        elif op == 0x54:
            a &= k
        elif op == 0x02:
            memory[k] = a
        elif op == 0x60:
            a = memory[k]
        else:
            raise AssertionError(f"instruction {op:#x}")


VECTORS = [
    (0, 0, 0, 0, 0, 0),
    (1, 2, 0x5050, 0, 0, 4),
    (5, 5, 0xFFFF5F5F, 5, 5, 5),
    (8, 6, 1, 38, 40, 3),
    (0xFFFFFFFF, 4, 0, 0, 0, 0),
    (BIG, BIG, BIG, BIG, BIG, BIG),
    (38, BIG + 1, 0, 0, 0, 0),
    (0x7E020000, 0x1_0000_0004, 0, 0, 0, 0),
    (0x1_0000_0026, 0x2_0000_0000, 0, 0, 0, 0),
]


def calls(machine: str) -> Iterator[tuple[int, int]]:
    """(audit architecture, number) of everything that can reach a filter, and some that no table knows."""
    if machine == "x86_64":
        both = [(0xC000003E, n) for n in range(LAST_OF_2_5_4 + 1)]
        yield from both
        yield from ((0xC000003E, n | 0x40000000) for n in range(548) if not LAST_OF_2_5_4 < n < 512)
        yield from ((0x40000003, n) for n in range(LAST_OF_2_5_4 + 1))
        yield (0xC000003E, 0xFFFFFFFF)
    else:
        yield from ((0xC00000B7, n) for n in range(LAST_OF_2_5_4 + 1))
        yield from ((0x40000028, n) for n in range(LAST_OF_2_5_4 + 1))
    yield (0xC00000B7 if machine == "x86_64" else 0xC000003E, 1)


def known(audit: int, number: int) -> bool:
    """uretprobe and the like are newer than the libseccomp beside us; -1 is a tracer's skipped call."""
    return not (audit == 0xC000003E and number in (335, 336))


@pytest.mark.parametrize("name", PROFILES)
def test_same_verdict_as_libseccomp(lib: ctypes.CDLL, name: str) -> None:
    profile = PROFILES[name]
    ours = decode(seccomp.compile_profile(profile, "x86_64"))
    theirs = decode(by_libseccomp(lib, profile, "x86_64"))
    differ = []
    for audit, number in calls("x86_64"):
        if not known(audit, number):
            continue
        # most calls look at no argument: one vector decides where the programs never load any
        for vector in VECTORS:
            wide = vector if audit != 0x40000003 else tuple(v & 0xFFFFFFFF for v in vector)
            data = struct.pack("IIQ6Q", number, audit, 0, *wide)
            a, b = run(ours, data)[0], run(theirs, data)[0]
            if a != b and not (number > 450 and a == 0x00050026):
                differ.append((hex(audit), number, wide, hex(a), hex(b)))
                break
            if name.startswith("default") and number not in (16, 41, 56, 102, 120, 135, 136, 220, 359):
                break
    assert not differ, differ[:10]


def test_same_verdict_on_arm64(lib: ctypes.CDLL) -> None:
    profile = default_profile("arm64", frozenset({"CAP_CHOWN"}))
    ours = decode(seccomp.compile_profile(profile, "aarch64"))
    theirs = decode(by_libseccomp(lib, profile, "aarch64"))
    for audit, number in calls("aarch64"):
        data = struct.pack("IIQ6Q", number, audit, 0, *VECTORS[0])
        assert run(ours, data)[0] == run(theirs, data)[0], (hex(audit), number)


def test_short_way_to_a_verdict() -> None:
    code = decode(seccomp.compile_profile(PROFILES["default"], "x86_64"))
    steps = [run(code, struct.pack("IIQ6Q", n, 0xC000003E, 0, *VECTORS[0]))[1] for n in range(450)]
    assert max(steps) < 40
    assert sum(steps) / len(steps) < 18


def test_unknown_future_calls_are_enosys() -> None:
    code = decode(seccomp.compile_profile(PROFILES["default"], "x86_64"))
    for audit, number in ((0xC000003E, 900), (0x40000003, 900), (0xC000003E, 0x40000000 + 900)):
        assert run(code, struct.pack("IIQ6Q", number, audit, 0, *VECTORS[0]))[0] == 0x00050026


def test_kernel_loads_and_obeys() -> None:
    profile = Seccomp(
        "SCMP_ACT_ALLOW",
        architectures=list(ARCHES),
        syscalls=[
            rule("mkdir", "mkdirat", action="SCMP_ACT_ERRNO", errno=95),
            rule("umask", action="SCMP_ACT_ERRNO", errno=1, args=[arg(0, "EQ", 0o123)]),
        ],
    )
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kernel.set_filter(seccomp.compile_profile(profile))
            found = []
            try:
                os.mkdir("/tmp/never-made")
            except OSError as e:
                found.append(e.errno)
            libc = ctypes.CDLL(None, use_errno=True)
            libc.umask.restype = ctypes.c_int
            found.append(libc.umask(0o123))
            found.append(int(libc.umask(0o022) >= 0))
            os.write(w, repr(found).encode())
        finally:
            os._exit(0)
    os.close(w)
    out = os.read(r, 100).decode()
    os.close(r)
    os.waitpid(pid, 0)
    assert out == "[95, -1, 1]"


@pytest.mark.parametrize(
    "profile",
    [
        Seccomp("SCMP_ACT_MAYBE"),
        Seccomp("SCMP_ACT_ERRNO", 70000),
        Seccomp("SCMP_ACT_ALLOW", syscalls=[rule("read", action="SCMP_ACT_ERRNO", args=[arg(6, "EQ", 1)])]),
        Seccomp("SCMP_ACT_ALLOW", syscalls=[rule("read", action="SCMP_ACT_ERRNO", args=[arg(0, "XX", 1)])]),
        Seccomp("SCMP_ACT_ALLOW", flags=["NOPE"]),
    ],
)
def test_bad_profiles(profile: Seccomp) -> None:
    with pytest.raises(InvalidArgument):
        seccomp.compiled(profile, None)


def test_notify_needs_a_listener_and_leaves_the_start_alone() -> None:
    for calls, path in ((["mount"], ""), (["write"], "/x")):
        profile = Seccomp("SCMP_ACT_ALLOW", listener_path=path, syscalls=[rule(*calls, action="SCMP_ACT_NOTIFY")])
        with pytest.raises(InvalidArgument, match="NOTIFY"):
            seccomp.compiled(profile, None)


def test_cache_on_disk(tmp_path) -> None:
    profile = PROFILES["deny-list"]
    seccomp._memory.clear()
    first = seccomp.compiled(profile, str(tmp_path))
    seccomp._memory.clear()
    (entry,) = tmp_path.iterdir()
    assert seccomp.compiled(profile, str(tmp_path)) == first
    entry.write_bytes(b"x" * 64)  # rubbish is not believed
    seccomp._memory.clear()
    assert seccomp.compiled(profile, str(tmp_path)) == first
