# SPDX-License-Identifier: Apache-2.0
"""Resources -> files, device rules -> lines and eBPF; cgroup2's own mechanics on the hybrid host's unified hierarchy."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wharfie.errdefs import FailedPrecondition, InvalidArgument
from wharfie.linux import bpf
from wharfie.runtime.linux.cgroups import devices, open_manager, read_host
from wharfie.runtime.linux.cgroups.host import Host
from wharfie.runtime.linux.cgroups.none import NoCgroups
from wharfie.runtime.linux.cgroups.settings import cpu_weight, io_weight, v1_settings, v2_settings
from wharfie.runtime.linux.cgroups.v2 import V2
from wharfie.spec import runtime as s


def pairs(settings) -> dict[str, str]:
    return {x.file: x.value for x in settings}


FULL = s.Resources(
    memory=s.Memory(limit=1 << 20, reservation=4096, swap=3 << 20),
    cpu=s.CPU(shares=512, quota=50000, period=100000, cpus="0-1", mems="0"),
    pids=s.Pids(-1),
    block_io=s.BlockIO(weight=500, throttle_read_bps_device=[s.ThrottleDevice(8, 0, 1000)]),
    hugepage_limits=[s.HugepageLimit("2MB", 4096)],
)


def test_v1_settings() -> None:
    found = pairs(v1_settings(FULL))
    assert found["cpu.shares"] == "512"
    assert found["cpu.cfs_quota_us"] == "50000"
    assert found["cpuset.cpus"] == "0-1"
    assert found["pids.max"] == "max"
    assert found["blkio.throttle.read_bps_device"] == "8:0 1000"
    assert found["hugetlb.2MB.limit_in_bytes"] == "4096"
    assert found["memory.soft_limit_in_bytes"] == "4096"


def test_v2_settings() -> None:
    found = pairs(v2_settings(FULL))
    assert found["memory.max"] == str(1 << 20)
    assert found["memory.swap.max"] == str(2 << 20)
    assert found["memory.low"] == "4096"
    assert found["cpu.weight"] == "20"
    assert found["cpu.max"] == "50000 100000"
    assert found["io.max"] == "8:0 rbps=1000"
    assert found["pids.max"] == "max"
    assert pairs(v2_settings(s.Resources(unified={"memory.high": "5"}))) == {"memory.high": "5"}
    assert pairs(v2_settings(s.Resources(cpu=s.CPU(period=50000)))) == {"cpu.max": "max 50000"}


@pytest.mark.parametrize(
    "resources",
    [
        s.Resources(memory=s.Memory(limit=100, swap=50)),
        s.Resources(cpu=s.CPU(realtime_runtime=5)),
        s.Resources(unified={"../x": "1"}),
        s.Resources(unified={"cgroup.procs": "1"}),
        s.Resources(network=s.NetworkResources(class_id=1)),
    ],
)
def test_v2_refuses_what_it_cannot_say(resources: s.Resources) -> None:
    with pytest.raises(InvalidArgument):
        v2_settings(resources)


def test_weights() -> None:
    assert [cpu_weight(n) for n in (2, 1024, 262144)] == [1, 39, 10000]
    assert [io_weight(n) for n in (10, 1000)] == [1, 10000]


def test_host_layouts(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "30 1 0:9 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "31 30 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "32 30 0:2 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n"
        "33 30 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
        "34 30 0:1 / /mnt rw - cgroup cgroup rw,cpu,cpuacct\n"
    )
    host = read_host(str(table))
    assert [(h.name, h.controllers) for h in host.v1] == [("cpu,cpuacct", ("cpu", "cpuacct")), ("systemd", ())]
    assert host.unified == "/sys/fs/cgroup/unified"
    table.write_text("33 30 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    assert isinstance(open_manager("/x", read_host(str(table))), V2)


def test_no_cgroups() -> None:
    manager = open_manager("/x", Host((), ""))
    assert isinstance(manager, NoCgroups)
    assert manager.apply(s.Resources())
    with pytest.raises(FailedPrecondition, match="no cgroup"):
        manager.apply(s.Resources(pids=s.Pids(1)))


def test_device_lines() -> None:
    rules = devices.rules([s.DeviceCgroup(False), s.DeviceCgroup(True, "c", 10, None, "rw")])
    assert devices.v1_lines(rules)[:2] == [("devices.deny", "a"), ("devices.allow", "c 10:* rw")]
    assert ("devices.allow", "c 1:3 rwm") in devices.v1_lines(rules)
    assert devices.v1_lines(devices.rules([s.DeviceCgroup(True)])) == [("devices.allow", "a")]
    with pytest.raises(InvalidArgument):
        devices.rules([s.DeviceCgroup(True, "x")])


def verdict(program: bytes, kind: str, major: int, minor: int, access: str) -> int:
    """Run the eBPF subset that device programs use."""
    bits = {"m": 1, "r": 2, "w": 4}
    kinds = {"b": 1, "c": 2}
    context = [sum(bits[c] for c in access) << 16 | kinds[kind], major, minor]
    r = [0] * 11
    pc = 0
    while True:
        code, regs, off, imm = struct.unpack_from("<BBhi", program, pc * 8)
        dst, src = regs & 15, regs >> 4
        pc += 1
        if code == 0x61:
            r[dst] = context[off // 4]
        elif code == 0x54:
            r[dst] &= imm & 0xFFFFFFFF
        elif code == 0x74:
            r[dst] >>= imm
        elif code == 0xB4:
            r[dst] = imm
        elif code == 0xBC:
            r[dst] = r[src]
        elif code == 0x55:
            pc += off if r[dst] != imm else 0
        elif code == 0x15:
            pc += off if r[dst] == imm else 0
        elif code == 0x5D:
            pc += off if r[dst] != r[src] else 0
        elif code == 0x95:
            return r[0]
        else:
            raise AssertionError(hex(code))


def test_device_program_verdicts() -> None:
    wanted = [
        s.DeviceCgroup(False),
        s.DeviceCgroup(True, "b", 8, 1, "r"),
        s.DeviceCgroup(True, "c", 10, None, "rw"),
        s.DeviceCgroup(False, "c", 10, 200, "w"),
    ]
    program = devices.program(devices.rules(wanted))
    cases = {
        ("c", 1, 3, "rw"): 1, ("c", 1, 1, "r"): 0, ("b", 8, 1, "r"): 1, ("b", 8, 1, "rw"): 0, ("b", 8, 2, "r"): 0,
        ("c", 10, 7, "rw"): 1, ("c", 10, 200, "r"): 1, ("c", 10, 200, "rw"): 0, ("c", 136, 5, "rw"): 1,
        ("b", 9, 9, "m"): 1,
    }  # fmt: skip
    assert {case: verdict(program, *case) for case in cases} == cases
    assert verdict(devices.program(devices.rules([s.DeviceCgroup(True)])), "b", 9, 9, "rwm") == 1


@pytest.fixture
def v2() -> Iterator[V2]:
    host = read_host()
    if not host.unified:
        pytest.skip("cgroup2 is not mounted here")
    manager = V2(f"/wharfie-test-{os.getpid()}/sub", host.unified)
    manager.create()
    yield manager
    manager.delete()
    manager.delete()
    os.rmdir(os.path.dirname(manager.directory))


@pytest.mark.root
def test_v2_processes(v2: V2) -> None:
    with subprocess.Popen(["sleep", "100"]) as process:
        v2.add(process.pid)
        assert v2.pids() == [process.pid]
        v2.freeze()
        assert v2.frozen()
        v2.thaw()
        assert not v2.frozen()
        v2.kill(signal.SIGUSR1)
        assert process.wait() == -signal.SIGUSR1
    with subprocess.Popen(["sleep", "100"]) as process:
        v2.add(process.pid)
        v2.kill(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert v2.stats().cpu_usage_ns > 0


@pytest.mark.root
def test_v2_devices(v2: V2) -> None:
    """The kernel's verifier takes the program, and it decides; an update replaces it."""

    def opens(path: str) -> bool:
        pid = os.fork()
        if pid == 0:
            try:
                v2.add(os.getpid())
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            except OSError:
                os._exit(1)
            os._exit(0)
        return os.waitpid(pid, 0)[1] == 0

    v2.apply(s.Resources(devices=[s.DeviceCgroup(False)]))
    assert opens("/dev/null")
    assert not opens("/dev/kmsg")
    v2.apply(s.Resources(devices=[s.DeviceCgroup(False), s.DeviceCgroup(True, "c", 1, 11, "r")]))
    assert opens("/dev/kmsg")
    fd = os.open(v2.directory, os.O_RDONLY)
    attached = bpf.attached_device_programs(fd)
    os.close(fd)
    for program in attached:
        os.close(program)
    assert len(attached) == 1
