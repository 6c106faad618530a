# SPDX-License-Identifier: Apache-2.0
"""bpf(2): device programs of cgroup v2."""

from __future__ import annotations

import ctypes
import struct

from wharfie.linux.libc import syscall

# linux/bpf.h
BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_DETACH = 9
BPF_PROG_GET_FD_BY_ID = 13
BPF_PROG_QUERY = 16
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2


def load_device_program(code: bytes) -> int:
    """Descriptor of a verified BPF_PROG_TYPE_CGROUP_DEVICE program."""
    insns = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attr = struct.pack(
        "IIQQIIQII16sI",
        BPF_PROG_TYPE_CGROUP_DEVICE, len(code) // 8, ctypes.addressof(insns), ctypes.addressof(licence),
        0, 0, 0, 0, 0, b"wharfie_dev", 0,
    )  # fmt: skip
    return syscall("bpf", BPF_PROG_LOAD, attr, len(attr), obj="device program")


def attach_device_program(cgroup_fd: int, program_fd: int) -> None:
    attr = struct.pack("IIII", cgroup_fd, program_fd, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI)
    syscall("bpf", BPF_PROG_ATTACH, attr, len(attr), obj="device program")


def detach_device_program(cgroup_fd: int, program_fd: int) -> None:
    attr = struct.pack("IIII", cgroup_fd, program_fd, BPF_CGROUP_DEVICE, 0)
    syscall("bpf", BPF_PROG_DETACH, attr, len(attr), obj="device program")


def attached_device_programs(cgroup_fd: int) -> list[int]:
    """Descriptors of the device programs attached to a cgroup itself. The caller closes them."""
    ids = (ctypes.c_uint32 * 64)()
    attr = ctypes.create_string_buffer(
        struct.pack("IIIIQI", cgroup_fd, BPF_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), 64), 28
    )
    syscall("bpf", BPF_PROG_QUERY, attr, 28, obj="device programs")
    count = struct.unpack_from("I", attr.raw, 24)[0]
    found = []
    for n in range(count):
        request = struct.pack("III", ids[n], 0, 0)
        found.append(syscall("bpf", BPF_PROG_GET_FD_BY_ID, request, len(request), obj=f"program {ids[n]}"))
    return found
