# SPDX-License-Identifier: Apache-2.0
"""The default profile, loaded by libseccomp into a child of ours and asked on the real kernel."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import json
import mmap
import os
import platform
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from wharfie.errdefs import InvalidArgument
from wharfie.oci import seccomp_calls
from wharfie.oci.caps import ALL_CAPS, DEFAULT_CAPS
from wharfie.oci.seccomp import ARCHITECTURES, default_profile, load_profile
from wharfie.spec.runtime import Seccomp

x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="system call numbers below are x86-64's")

SOCKET, CLONE, UNSHARE, PERSONALITY, PTRACE, KEYCTL, BPF, MOUNT, USERFAULTFD = 41, 56, 272, 135, 101, 250, 321, 165, 323
IO_URING_SETUP, CLONE3, OPEN_BY_HANDLE_AT, IO_URING_ENTER = 425, 435, 304, 426
AF_ALG, AF_VSOCK, AF_INET, AF_UNIX, AF_NETLINK, AF_PACKET = 38, 40, 2, 1, 16, 17
SOCK_STREAM = 1


class _Arg(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


_OPS = {"SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6,
        "SCMP_CMP_MASKED_EQ": 7}  # fmt: skip
_SCMP_ARCHES = {"SCMP_ARCH_X86_64": 0xC000003E, "SCMP_ARCH_X86": 0x40000003, "SCMP_ARCH_X32": 0x4000003E}


def _action(name: str, number: int | None) -> int:
    return {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_ERRNO": 0x00050000 | (number or 1)}[name]


def load(profile: Seccomp) -> None:
    lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    lib.seccomp_init.restype = ctypes.c_void_p
    ctx = ctypes.c_void_p(lib.seccomp_init(_action(profile.default_action, profile.default_errno_ret)))
    for name in profile.architectures:
        assert lib.seccomp_arch_add(ctx, ctypes.c_uint32(_SCMP_ARCHES[name])) in {0, -errno.EEXIST}
    for rule in profile.syscalls:
        args = (_Arg * len(rule.args))(*((a.index, _OPS[a.op], a.value, a.value_two) for a in rule.args))
        for name in rule.names:
            number = lib.seccomp_syscall_resolve_name(name.encode())
            if number != -1:
                code = lib.seccomp_rule_add_array(ctx, _action(rule.action, rule.errno_ret), number, len(args), args)
                assert code == 0, (name, code)
    assert lib.seccomp_load(ctx) == 0


def under(profile: Seccomp, ask: Callable[[], list[int]]) -> list[int]:
    """What `ask` returns in a child under `profile`."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = "died"
        try:
            load(profile)
            answer = json.dumps(ask())
        except BaseException as e:
            answer = repr(e)
        finally:
            os.write(write, answer.encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSEGV:
        pytest.skip("this kernel runs no 32-bit system calls")
    found = json.loads(text)
    assert isinstance(found, list), found
    return found


def calls(*each: tuple[int, ...]) -> Callable[[], list[int]]:
    """Errno (0 for success) of each system call (number, arguments…); a child that a clone made ends at once."""

    def ask() -> list[int]:
        libc = ctypes.CDLL(None, use_errno=True)
        found = []
        for number, *arguments in each:
            ctypes.set_errno(0)
            result = libc.syscall(ctypes.c_long(number), *(ctypes.c_uint64(a) for a in arguments))
            if number == CLONE and result == 0:
                os._exit(0)
            found.append(0 if result >= 0 else ctypes.get_errno())
        return found

    return ask


DEFAULT = default_profile("amd64", DEFAULT_CAPS)


@x86_64
def test_sockets() -> None:
    """CVE-2026-31431, and the same family with a bit set that the kernel does not look at."""
    families = [AF_UNIX, AF_INET, AF_NETLINK, AF_ALG, AF_VSOCK, AF_ALG | 1 << 32, AF_VSOCK | 1 << 63, AF_INET | 1 << 32]
    answers = under(DEFAULT, calls(*((SOCKET, f, SOCK_STREAM, 0) for f in families)))
    assert answers[:2] == [0, 0]
    assert answers[2] in {0, errno.ESOCKTNOSUPPORT}
    assert answers[3:7] == [errno.EPERM] * 4
    assert answers[7] == 0


@x86_64
def test_every_other_family_passes_the_filter() -> None:
    families = [f for f in range(46) if f not in {AF_ALG, AF_VSOCK}]
    answers = under(DEFAULT, calls(*((SOCKET, f, 99, 0) for f in families)))
    assert errno.EPERM not in answers, [f for f, a in zip(families, answers, strict=True) if a == errno.EPERM]


@x86_64
def test_refused() -> None:
    """CVE-2022-0185 and -0492 begin with unshare; io_uring does what no filter sees; keys are not namespaced."""
    new_user, new_ns = 0x10000000, 0x20000
    ask = calls(
        (UNSHARE, new_user), (CLONE, new_user | 17, 0, 0, 0, 0), (CLONE, new_ns | 17, 0, 0, 0, 0), (MOUNT, 0, 0, 0, 0, 0),
        (BPF, 99, 0, 0), (KEYCTL, 0, 0, 0), (USERFAULTFD, 0), (OPEN_BY_HANDLE_AT, 0, 0, 0), (PERSONALITY, 0x0040000),
        (IO_URING_SETUP, 1, 0), (IO_URING_ENTER, 0, 0, 0, 0, 0, 0), (9999,),
    )  # fmt: skip
    assert under(DEFAULT, ask) == [errno.EPERM] * 12


@x86_64
def test_let_through() -> None:
    ask = calls(
        (CLONE, 17, 0, 0, 0, 0), (PERSONALITY, 0xFFFFFFFF), (PERSONALITY, 0), (PTRACE, 99, 0, 0, 0), (CLONE3, 0, 0)
    )
    clone, query, linux, ptrace, clone3 = under(DEFAULT, ask)
    assert (clone, query, linux) == (0, 0, 0)
    assert ptrace == errno.ESRCH
    assert clone3 == errno.ENOSYS, "libc falls back to clone on ENOSYS only"


@x86_64
def test_capabilities_open_their_calls() -> None:
    profile = default_profile("amd64", frozenset({"CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"}))
    ask = calls(
        (MOUNT, 0, 0, 0, 0, 0),
        (CLONE3, 0, 0),
        (OPEN_BY_HANDLE_AT, 0, 0, 0),
        (IO_URING_SETUP, 1, 0),
        (SOCKET, AF_ALG, 5, 0),
    )
    assert under(profile, ask) == [errno.EFAULT, errno.EINVAL, errno.EFAULT, errno.EPERM, errno.EPERM]


@x86_64
def test_32_bit_calls() -> None:
    """Int 0x80 from this process: socketcall is not there, socket itself works and looks at the family."""

    def ask() -> list[int]:
        # push rbx; mov eax,edi; mov ebx,esi; mov ecx,edx; xor edx,edx; int 0x80; movsxd rax,eax; pop rbx; ret
        code = bytes.fromhex("53 89f8 89f3 89d1 31d2 cd80 4863c0 5b c3")
        page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, prot=7)  # MAP_32BIT: ecx must reach it
        page[: len(code)] = code
        page[2048:2060] = b"".join(v.to_bytes(4, "little") for v in (AF_INET, SOCK_STREAM, 0))
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        call = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int)(address)
        socketcall, socket = 102, 359
        return [
            call(socketcall, 1, address + 2048), call(socketcall, 2, address + 2048), call(socketcall, 4, 0),
            call(socket, AF_ALG, 5), min(call(socket, AF_INET, SOCK_STREAM), 0), call(310, 0x10000000, 0),
        ]  # fmt: skip

    made, bind, listen, alg, inet, unshare = under(DEFAULT, ask)
    assert (made, bind, listen) == (-errno.ENOSYS,) * 3
    assert (alg, inet, unshare) == (-errno.EPERM, 0, -errno.EPERM)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_a_profile(architecture: str) -> None:
    p = default_profile(architecture, frozenset(ALL_CAPS))
    assert p.architectures == list(ARCHITECTURES[architecture])
    assert p is default_profile(architecture, frozenset(ALL_CAPS)), "cached"


def test_no_profile_for_an_unknown_machine() -> None:
    with pytest.raises(InvalidArgument) as e:
        default_profile("vax", frozenset())
    assert e.value.hint


def test_names_are_real_and_once() -> None:
    lib = ctypes.CDLL("libseccomp.so.2")
    young = {"cachestat", "fchmodat2", "file_getattr", "file_setattr", "getxattrat", "listmount", "listxattrat", "lsm_get_self_attr",
             "lsm_list_modules", "lsm_set_self_attr", "map_shadow_stack", "mseal", "open_tree_attr", "removexattrat",
             "riscv_hwprobe", "setxattrat", "statmount", "uprobe", "uretprobe"}  # fmt: skip
    every = [
        *seccomp_calls.ALLOWED,
        *sum(seccomp_calls.BY_CAPABILITY.values(), ()),
        *sum(seccomp_calls.BY_ARCHITECTURE.values(), ()),
    ]
    unknown = {n for n in every if lib.seccomp_syscall_resolve_name(n.encode()) == -1}
    assert unknown <= young
    assert len(seccomp_calls.ALLOWED) == len(set(seccomp_calls.ALLOWED))
    assert set(seccomp_calls.BY_CAPABILITY) <= set(ALL_CAPS)


def test_dockers_json() -> None:
    text = json.dumps({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "archMap": [{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
                    {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": None, "comment": "", "includes": {}, "excludes": {}},
            {"name": "write", "action": "SCMP_ACT_ALLOW", "args": []},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errno": "EPERM", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["iopl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]},
        ],
    })  # fmt: skip
    plain = load_profile(text, "amd64", frozenset(), (4, 4))
    assert plain.architectures == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert plain.default_errno_ret == 38
    assert [r.names[0] for r in plain.syscalls] == ["read", "write", "bpf", "personality"]
    assert plain.syscalls[2].errno_ret == errno.EPERM
    admin = load_profile(text, "arm64", frozenset({"CAP_SYS_ADMIN"}), (6, 1))
    assert [r.names[0] for r in admin.syscalls] == ["read", "write", "mount", "ptrace", "iopl", "personality"]


def test_the_distributions_own_profile_loads() -> None:
    path = Path("/usr/share/containers/seccomp.json")
    if not path.exists():
        pytest.skip("no profile of another engine here")
    profile = load_profile(path.read_text(), "amd64", DEFAULT_CAPS)
    assert (
        "io_uring_setup" not in {n for r in profile.syscalls if r.action == "SCMP_ACT_ALLOW" for n in r.names}
        or profile
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "truncated"),
        ("{}", "defaultAction"),
        ('{"defaultAction":"A","architectures":["x"],"archMap":[{"architecture":"y"}]}', "archMap"),
        ('{"defaultAction":"A","syscalls":[{"name":"a","names":["b"],"action":"X"}]}', "both"),
        ('{"defaultAction":"A","syscalls":[{"names":"b","action":"X"}]}', "names"),
        (
            '{"defaultAction":"A","syscalls":[{"names":["b"],"action":"X","includes":{"minKernel":"four"}}]}',
            "minKernel",
        ),
        ('{"defaultAction":"A","syscalls":[{"names":["b"],"action":"X","errno":"EWHAT"}]}', "EWHAT"),
    ],
)
def test_bad_profiles(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        load_profile(text, "amd64", frozenset())
