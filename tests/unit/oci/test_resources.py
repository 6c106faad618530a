# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import stat
from typing import Any

import pytest

from wharfie.errdefs import FailedPrecondition, InvalidArgument, NotFound, Unsupported, WharfieError
from wharfie.oci import resources as r
from wharfie.oci.devices import ALLOW_ALL, DEFAULT_RULES, Lookup, host_devices, mapped_devices, parse_rule, rules
from wharfie.oci.facts import HostFacts, kernel_version, probe
from wharfie.oci.security import MASKED_PATHS, parse_security_opts
from wharfie.oci.signals import parse_signal
from wharfie.spec.docker import DeviceMapping, HostConfig, ThrottleDevice, Ulimit, UpdateBody, WeightDevice
from wharfie.spec.runtime import CPU, DeviceCgroup, Memory, Pids, Rlimit

V1 = HostFacts(
    cgroup_version=1,
    cpus=2,
    cpu_list="0-1",
    mem_list="0",
    controllers=frozenset({"memory", "cpu", "cpuset", "pids", "blkio"}),
)
V2 = HostFacts(cpus=4, cpu_list="0-3", mem_list="0")
MiB = 1 << 20


@pytest.mark.parametrize(
    ("host", "wrong", "error"),
    [
        (V2, {"memory": MiB}, InvalidArgument),
        (V2, {"memory": -1}, InvalidArgument),
        (V2, {"memory_reservation": 1}, InvalidArgument),
        (V2, {"memory_swap": 64 * MiB}, InvalidArgument),
        (V2, {"memory": 64 * MiB, "memory_swap": 32 * MiB}, InvalidArgument),
        (V2, {"memory": 64 * MiB, "memory_swap": -2}, InvalidArgument),
        (V2, {"memory": 64 * MiB, "memory_reservation": 65 * MiB}, InvalidArgument),
        (V1, {"memory_swappiness": 101}, InvalidArgument),
        (V2, {"memory_swappiness": 10}, Unsupported),
        (V2, {"kernel_memory": 64 * MiB}, Unsupported),
        (V2, {"kernel_memory_tcp": 64 * MiB}, Unsupported),
        (V2, {"oom_kill_disable": True}, Unsupported),
        (V2._replace(swap_limit=False), {"memory": 64 * MiB, "memory_swap": 64 * MiB}, FailedPrecondition),
        (V2._replace(controllers=frozenset()), {"memory": 64 * MiB}, FailedPrecondition),
        (V2._replace(controllers=frozenset({"memory"})), {"pids_limit": 5}, FailedPrecondition),
        (V1, {"nano_cpus": 2_100_000_000}, InvalidArgument),
        (V1, {"nano_cpus": 1}, InvalidArgument),
        (V1, {"nano_cpus": 10**9, "cpu_quota": 5000}, InvalidArgument),
        (V1, {"cpu_shares": 1}, InvalidArgument),
        (V1, {"cpu_period": 999}, InvalidArgument),
        (V1, {"cpu_quota": 999}, InvalidArgument),
        (V1, {"cpuset_cpus": "0-2"}, InvalidArgument),
        (V1, {"cpuset_cpus": "1-0"}, InvalidArgument),
        (V1, {"cpuset_cpus": "x"}, InvalidArgument),
        (V1, {"cpuset_mems": "1"}, InvalidArgument),
        (V1, {"cpuset_cpus": "0-99999999999"}, InvalidArgument),
        (V1, {"cpu_realtime_runtime": 1000}, Unsupported),
        (V1, {"blkio_weight": 5}, InvalidArgument),
        (V1._replace(io_weight=False), {"blkio_weight": 500}, FailedPrecondition),
        (V1, {"blkio_weight_device": [WeightDevice(path="/dev/x", weight=5)]}, InvalidArgument),
        (V1, {"blkio_device_read_bps": [ThrottleDevice(path="/dev/x", rate=0)]}, InvalidArgument),
        (V1, {"cpu_count": 2}, Unsupported),
        (V1, {"io_maximum_iops": 2}, Unsupported),
        (V1, {"ulimits": [Ulimit(name="files", soft=1, hard=1)]}, InvalidArgument),
        (V1, {"ulimits": [Ulimit(name="nofile", soft=2, hard=1)]}, InvalidArgument),
        (V1, {"ulimits": [Ulimit(name="nofile", soft=-1, hard=1)]}, InvalidArgument),
        (V1, {"ulimits": [Ulimit(name="nofile", soft=-2, hard=1)]}, InvalidArgument),
        (
            V1._replace(hard_limits={"nofile": 9}),
            {"ulimits": [Ulimit(name="nofile", soft=1, hard=10)]},
            FailedPrecondition,
        ),
        (
            V1._replace(hard_limits={"nofile": 9}),
            {"ulimits": [Ulimit(name="nofile", soft=1, hard=-1)]},
            FailedPrecondition,
        ),
    ],
)
def test_refused(host: HostFacts, wrong: dict[str, Any], error: type[WharfieError]) -> None:
    with pytest.raises(error):
        r.check_resources(HostConfig(**wrong), host)


def test_accepted_and_warned() -> None:
    assert r.check_resources(HostConfig(), V2) == []
    assert (
        r.check_resources(HostConfig(memory=64 * MiB, memory_swap=-1, memory_swappiness=-1, oom_kill_disable=False), V2)
        == []
    )
    assert r.check_resources(HostConfig(nano_cpus=2 * 10**9, cpuset_cpus="0,1", cpu_shares=2), V1) == []
    assert "swap" in r.check_resources(HostConfig(memory=64 * MiB), V2._replace(swap_limit=False))[0]
    assert "OOM" in r.check_resources(HostConfig(oom_kill_disable=True), V1)[0]


def fake(path: str) -> os.stat_result:
    modes = {"/dev/vda": (stat.S_IFBLK | 0o660, 254, 0), "/dev/snd/a": (stat.S_IFCHR | 0o600, 116, 2),
             "/dev/snd": (stat.S_IFDIR, 0, 0), "/dev/snd/by": (stat.S_IFDIR, 0, 0), "/dev/file": (stat.S_IFREG, 0, 0),
             "/dev": (stat.S_IFDIR, 0, 0), "/dev/console": (stat.S_IFCHR, 5, 1), "/dev/ptmx": (stat.S_IFCHR, 5, 2),
             "/dev/stdin": (stat.S_IFLNK, 0, 0)}  # fmt: skip
    if path not in modes:
        raise FileNotFoundError(2, "No such file or directory")
    mode, major, minor = modes[path]
    return os.stat_result((mode, 0, 0, 1, 0, 6, 0, 0, 0, 0), {"st_rdev": os.makedev(major, minor)})


def listing(path: str) -> list[str]:
    return {
        "/dev/snd": ["a", "by", "gone"],
        "/dev/snd/by": [],
        "/dev": ["vda", "console", "ptmx", "snd", "stdin", "pts", "file"],
    }[path]


LOOK = Lookup(fake, fake, listing)


def test_documents() -> None:
    found = r.resources(
        HostConfig(memory=64 * MiB, nano_cpus=1_500_000_000, pids_limit=5,
                   blkio_device_read_bps=[ThrottleDevice(path="/dev/vda", rate=9)]), fake,
    )  # fmt: skip
    assert found.memory == Memory(limit=64 * MiB, swap=128 * MiB)
    assert found.cpu == CPU(period=100_000, quota=150_000)
    assert found.pids == Pids(5)
    assert found.block_io
    io = found.block_io.throttle_read_bps_device[0]
    assert (io.major, io.minor, io.rate) == (254, 0, 9)
    nothing = r.resources(HostConfig(pids_limit=0, memory_swappiness=-1, oom_kill_disable=False), fake)
    assert (nothing.memory, nothing.cpu, nothing.pids, nothing.block_io) == (None, None, None, None)


def test_pids_limit_is_lifted_by_an_update_only() -> None:
    assert r.resources(HostConfig(pids_limit=-1), fake).pids == Pids(-1)
    assert r.resources(UpdateBody(pids_limit=0), fake).pids == Pids(-1)
    assert r.resources(UpdateBody(), fake).pids is None


def test_io_devices_must_be_block_devices() -> None:
    with pytest.raises(NotFound):
        r.resources(HostConfig(blkio_device_read_bps=[ThrottleDevice(path="/dev/none", rate=9)]), fake)
    with pytest.raises(InvalidArgument):
        r.resources(HostConfig(blkio_weight_device=[WeightDevice(path="/dev/snd/a", weight=100)]), fake)


def test_rlimits() -> None:
    assert r.rlimits([Ulimit(name="nofile", soft=1, hard=-1)]) == [Rlimit("RLIMIT_NOFILE", 2**64 - 1, 1)]
    assert r.rlimits(None) == []


@pytest.mark.parametrize(
    ("parent", "wanted"), [("", "/wharfie/id"), ("/a/b", "/a/b/id"), ("a", "/a/id"), ("/", "/id"), ("//x//", "/x/id")]
)
def test_cgroups_path(parent: str, wanted: str) -> None:
    assert r.cgroups_path("id", parent) == wanted


@pytest.mark.parametrize(
    ("parent", "default", "wanted"),
    [
        ("", "/wharfie", "system.slice:wharfie:id"),
        ("", "my.slice", "my.slice:wharfie:id"),
        ("a-b.slice", "/wharfie", "a-b.slice:wharfie:id"),
        ("-.slice", "/wharfie", "-.slice:wharfie:id"),
    ],
)
def test_systemd_scopes(parent: str, default: str, wanted: str) -> None:
    assert r.cgroups_path("id", parent, default_parent=default, driver="systemd") == wanted


@pytest.mark.parametrize(
    "parent", ["/a", "a", ".slice", "a--b.slice", "a-.slice", "a/b.slice", "a:b.slice", "a b.slice"]
)
def test_no_slices(parent: str) -> None:
    with pytest.raises(InvalidArgument, match="slice"):
        r.cgroups_path("id", parent, driver="systemd")


@pytest.mark.parametrize("parent", ["..", "/a/../../b", "/a/.", "a\nb", "a\0"])
def test_cgroup_parents_that_climb(parent: str) -> None:
    with pytest.raises(InvalidArgument):
        r.cgroups_path("id", parent)


def test_devices() -> None:
    pairs = list(
        mapped_devices(
            [DeviceMapping(path_on_host="/dev/vda", path_in_container="/dev/x", cgroup_permissions="r")], LOOK
        )
    )
    (node, rule), = pairs  # fmt: skip
    assert (node.path, node.type, node.major, node.minor, node.file_mode, node.gid) == ("/dev/x", "b", 254, 0, 0o660, 6)
    assert rule == DeviceCgroup(True, "b", 254, 0, "r")
    below = list(mapped_devices([DeviceMapping(path_on_host="/dev/snd", path_in_container="/dev/sound")], LOOK))
    assert [n.path for n, _ in below] == ["/dev/sound/a"]


@pytest.mark.parametrize(
    ("m", "error"),
    [
        ({"path_on_host": "/dev/none"}, NotFound),
        ({"path_on_host": "/dev/file"}, InvalidArgument),
        ({"path_on_host": "dev/vda"}, InvalidArgument),
        ({"path_on_host": "/dev/vda", "path_in_container": "/dev/../etc/x"}, InvalidArgument),
        ({"path_on_host": "/dev/vda", "cgroup_permissions": "rwx"}, InvalidArgument),
        ({"path_on_host": "/dev/vda", "cgroup_permissions": "rr"}, InvalidArgument),
    ],
)
def test_bad_devices(m: dict[str, str], error: type[WharfieError]) -> None:
    with pytest.raises(error):
        list(mapped_devices([DeviceMapping(**m)], LOOK))


def test_privileged_devices_leave_out_what_is_the_containers_own() -> None:
    """A link such as /dev/stdin must not become a node of whatever it points at just now."""
    assert [d.path for d in host_devices(LOOK)] == ["/dev/snd/a", "/dev/vda"]


def test_rules() -> None:
    assert parse_rule("c 13:* rwm") == DeviceCgroup(True, "c", 13, None, "rwm")
    assert parse_rule("a *:* r") == DeviceCgroup(True, "a", None, None, "r")
    for text in ("", "c 1:3", "x 1:1 r", "c 1:1 rx", "c 1:1 rr", "c  1:1 r", "c -1:1 r", "c 1:1 r\n"):
        with pytest.raises(InvalidArgument):
            parse_rule(text)
    assert rules([], [], privileged=True) == list(ALLOW_ALL)
    assert rules([], ["c 1:1 r"], privileged=False) == [*DEFAULT_RULES, DeviceCgroup(True, "c", 1, 1, "r")]
    assert DEFAULT_RULES[0] == DeviceCgroup(False, access="rwm")


@pytest.mark.parametrize(
    ("text", "number"),
    [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN", 34), ("RTMIN+3", 37), ("RTMAX-1", 63), ("SIGRTMAX", 64), (" HUP ", 1),
     ("SIGSYS", 31), ("CLD", 17)],
)  # fmt: skip
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "-1", "SIG", "SIGFOO", "RTMIN-1", "RTMAX+1", "RTMIN+", "RTMIN+999", "1.5", "\u0661"]
)
def test_no_such_signal(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_signal(text)


def test_security_options() -> None:
    host = V2._replace(lsm=frozenset({"apparmor"}))
    o = parse_security_opts(
        ["no-new-privileges", "apparmor=docker-default", "seccomp=unconfined", "systempaths=unconfined"], host
    )
    assert (o.no_new_privileges, o.apparmor, o.seccomp, o.system_paths_unconfined) == (
        True,
        "docker-default",
        "unconfined",
        True,
    )
    o = parse_security_opts(
        ["no-new-privileges:false", "seccomp:builtin", "label=disable", "apparmor=unconfined", "writable-cgroups=1"], V2
    )
    assert (o.no_new_privileges, o.seccomp, o.writable_cgroups) == (False, "", True)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("bogus", InvalidArgument), ("no-new-privileges=maybe", InvalidArgument), ("seccomp=/etc/p.json", InvalidArgument),
        ("seccomp=", InvalidArgument), ("systempaths=x", InvalidArgument), ("apparmor=x", FailedPrecondition),
        ("label=type:x", FailedPrecondition), ("", InvalidArgument),
    ],
)  # fmt: skip
def test_bad_security_options(text: str, error: type[WharfieError]) -> None:
    with pytest.raises(error):
        parse_security_opts([text], V2)


def test_selinux_labels_are_not_there_yet() -> None:
    with pytest.raises(Unsupported):
        parse_security_opts(["label=type:x"], V2._replace(lsm=frozenset({"selinux"})))


def test_this_host() -> None:
    facts = probe()
    assert facts.kernel >= (4, 0)
    assert facts.cgroup_version in {1, 2}
    assert facts.cpus >= 1
    nofile = facts.hard_limits["nofile"]
    assert r.check_resources(HostConfig(ulimits=[Ulimit(name="nofile", soft=1, hard=nofile)]), facts) == []
    with pytest.raises(FailedPrecondition):
        r.check_resources(HostConfig(ulimits=[Ulimit(name="nofile", soft=1, hard=nofile + 1)]), facts)
    assert "/proc/kcore" in MASKED_PATHS


@pytest.mark.parametrize(
    ("release", "wanted"), [("6.1.0-18-amd64", (6, 1)), ("5.10", (5, 10)), ("6.18-rc1", (6, 18)), ("x", (0, 0))]
)
def test_kernel_version(release: str, wanted: tuple[int, int]) -> None:
    assert kernel_version(release) == wanted
