# SPDX-License-Identifier: Apache-2.0
"""What the spec offers beyond the common path, on the real kernel: time, propagation, recursion, labels, degradation."""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from harness.runtime import BASE, Rig, busybox_layer, open_rig
from wharfie.errdefs import FailedPrecondition, InvalidArgument, NotFound, Unsupported, WharfieError
from wharfie.fsutil.sockets import short_name
from wharfie.linux import mountapi as k
from wharfie.runtime import Stdio
from wharfie.runtime.linux.engine import LinuxEngine
from wharfie.spec import runtime as s

pytestmark = [pytest.mark.root]


@pytest.fixture(scope="module")
def layer() -> Iterator[Path]:
    need("busybox")
    with busybox_layer() as root:
        yield root


@pytest.fixture(params=["linux", "linux-userns"])
def rig(request: pytest.FixtureRequest, tmp_path: Path, layer: Path) -> Iterator[Rig]:
    with open_rig(request.param, tmp_path, layer) as rig:
        yield rig


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A shared mount of the host with a mount beneath it."""
    top = tmp_path / "shared"
    (top).mkdir()
    k.mount("tmpfs", str(top), "tmpfs", 0)
    k.mount("", str(top), "", k.MS_SHARED)
    (top / "sub").mkdir()
    (top / "later").mkdir()
    k.mount("tmpfs", f"{top}/sub", "tmpfs", 0)
    yield top
    subprocess.run(["umount", "-R", str(top)], check=True)


def bind(rig: Rig, source: Path, destination: str, *options: str) -> s.Mount:
    maps = [s.IDMapping(0, BASE, 65536)] if rig.userns else []
    return s.Mount(destination, "bind", str(source), list(options), maps, maps)


def test_time_namespace(rig: Rig) -> None:
    spec = rig.spec("cat", "/proc/uptime")
    assert spec.linux
    spec.linux.namespaces.append(s.Namespace("time"))
    spec.linux.time_offsets = {"boottime": s.TimeOffset(secs=1_000_000)}
    _, out = rig.run(spec=spec)
    assert float(out.split()[0]) > 1_000_000


def test_exec_enters_the_time_namespace(rig: Rig) -> None:
    spec = rig.spec("sleep", "100")
    assert spec.linux
    spec.linux.namespaces += [s.Namespace("time"), s.Namespace("cgroup")]
    spec.linux.time_offsets = {"boottime": s.TimeOffset(secs=1_000_000)}
    started = rig.create(spec)
    rig.engine.start()
    assert float(rig.exec("cat", "/proc/uptime")[1].split()[0]) > 1_000_000
    assert "/\n" in rig.exec("cat", "/proc/self/cgroup")[1]
    rig.end(started)


def test_recursive_read_only_bind(rig: Rig, shared: Path) -> None:
    spec = rig.spec("sh", "-c", "touch /a/x; touch /a/sub/x; touch /b/sub/x && echo ok")
    spec.mounts += [bind(rig, shared, "/a", "rbind", "rro"), bind(rig, shared, "/b", "rbind", "ro")]
    if rig.userns:
        for m in spec.mounts[-2:]:
            m.options.append("ridmap")
    _, out = rig.run(spec=spec)
    assert "/a/x: Read-only" in out
    assert "/a/sub/x: Read-only" in out
    assert out.endswith("ok\n")


def test_slave_propagation(rig: Rig, shared: Path) -> None:
    spec = rig.spec("sleep", "100")
    spec.mounts.append(s.Mount("/p", "bind", str(shared), ["rbind", "rslave"]))
    spec.mounts.append(s.Mount("/q", "bind", str(shared), ["rbind", "rprivate"]))
    started = rig.create(spec)
    rig.engine.start()
    k.mount("tmpfs", f"{shared}/later", "tmpfs", 0)
    (shared / "later/seen").touch()
    assert rig.exec("ls", "/p/later")[1] == "seen\n"
    assert rig.exec("ls", "/q/later")[1] == ""
    rig.end(started)


def test_shared_propagation_reaches_the_host(rig: Rig, shared: Path) -> None:
    if rig.userns:
        pytest.skip("a user namespace gets slaves of the host's mounts")
    spec = rig.spec("sh", "-c", "mount -t tmpfs x /p/later && touch /p/later/made && umount /p/sub")
    assert spec.linux
    assert spec.process
    assert spec.process.capabilities
    for names in (spec.process.capabilities.bounding, spec.process.capabilities.effective):
        names.append("CAP_SYS_ADMIN")
    spec.process.capabilities.permitted.append("CAP_SYS_ADMIN")
    spec.linux.rootfs_propagation = "rshared"
    spec.mounts.append(s.Mount("/p", "bind", str(shared), ["rbind", "rshared"]))
    assert rig.run(spec=spec) == (0, "")
    assert (shared / "later/made").exists()
    k.mount("tmpfs", f"{shared}/sub", "tmpfs", 0)


def test_tmpcopyup(rig: Rig) -> None:
    spec = rig.spec("sh", "-c", "cat /data/file; stat -c %u:%g /data/file; touch /data/new")
    spec.mounts.append(s.Mount("/data", "tmpfs", "tmpfs", ["tmpcopyup", "mode=755"]))
    _, out = rig.run(spec=spec)
    assert out == "x5:6\n"
    assert not (rig.top / "upper/data/new").exists()


def test_devices(rig: Rig) -> None:
    spec = rig.spec(
        "sh", "-c", "stat -c '%a %u %t:%T' /dev/net/tun /dev/kmsg; echo > /dev/null && cat /dev/kmsg; echo $?"
    )
    assert spec.linux
    assert spec.linux.resources
    spec.linux.devices = [
        s.Device("/dev/net/tun", "c", 10, 200, 0o600, 7, 8),
        s.Device("/dev/kmsg", "c", 1, 11, 0o644),
    ]
    _, out = rig.run(spec=spec)
    assert out.startswith("600 7 a:c8\n644 0 1:b\n")
    assert "Operation not permitted" in out  # the node is there, the device cgroup says no


def test_personality_and_domainname(rig: Rig) -> None:
    spec = rig.spec("sh", "-c", "cat /proc/sys/kernel/domainname; cat /proc/1/personality 2>&1")
    assert spec.linux
    spec.domainname = "example.org"
    spec.linux.personality = s.Personality("LINUX32")
    _, out = rig.run(spec=spec)
    assert out.startswith("example.org\n")


def test_limits_that_need_cap_sys_resource_degrade_visibly(rig: Rig) -> None:
    limit = s.Rlimit("RLIMIT_NOFILE", 1 << 30, 1 << 30)
    spec = rig.spec("sh", "-c", "ulimit -n; cat /proc/self/oom_score_adj", rlimits=[limit], oom_score_adj=-500)
    code, out = rig.run(spec=spec)
    assert code == 0
    if not os.environ.get("WHARFIE_HAS_SYS_RESOURCE") and "1073741824" not in out:
        text = " ".join(rig.engine.warnings)
        assert "CAP_SYS_RESOURCE" in text
        assert "RLIMIT_NOFILE" in text


def test_cgroup_namespace_and_mount(rig: Rig) -> None:
    spec = rig.spec("sh", "-c", "cat /proc/self/cgroup; ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/pids.max")
    assert spec.linux
    assert spec.linux.resources
    spec.linux.resources.pids = s.Pids(33)
    spec.linux.namespaces.append(s.Namespace("cgroup"))
    spec.mounts.append(s.Mount("/sys/fs/cgroup", "cgroup", "cgroup", ["ro", "nosuid", "nodev", "noexec"]))
    _, out = rig.run(spec=spec)
    assert rig.id not in out
    assert out.endswith("33\n")


def test_no_pivot(tmp_path: Path, layer: Path) -> None:
    with open_rig("linux", tmp_path, layer) as rig:
        rig.engine = LinuxEngine(no_pivot=True)
        assert rig.run("sh", "-c", "ls /; pwd")[1].split()[-1] == "/"


def test_ambient_capabilities_reach_a_user(rig: Rig) -> None:
    caps = ["CAP_NET_BIND_SERVICE"]
    spec = rig.spec("grep", "-E", "Cap(Eff|Amb|Inh)", "/proc/self/status", user=s.User(uid=1000, gid=1000))
    assert spec.process
    spec.process.capabilities = s.Capabilities(caps, caps, caps, caps, caps)
    _, out = rig.run(spec=spec)
    assert [int(line.split()[1], 16) for line in out.splitlines()] == [1 << 10] * 3


def test_stdio_can_be_reopened_by_a_user(rig: Rig) -> None:
    assert rig.run("sh", "-c", "echo hi > /dev/stdout", user=s.User(uid=1000, gid=1000)) == (0, "hi\n")


def test_sysfs_of_a_joined_network(tmp_path: Path, layer: Path) -> None:
    """A user namespace can't mount sysfs for a network namespace that it doesn't own: the host's is shown read-only."""
    with open_rig("linux-userns", tmp_path, layer) as rig:
        spec = rig.spec("sh", "-c", "ls /sys | wc -l; touch /sys/x")
        assert spec.linux
        spec.linux.namespaces = [n for n in spec.linux.namespaces if n.type != "network"]
        spec.linux.namespaces.append(s.Namespace("network", "/proc/self/ns/net"))
        _, out = rig.run(spec=spec)
        assert int(out.split()[0]) > 5
        assert "Read-only" in out


@pytest.mark.parametrize("stage", ["mount", "cgroup", "sysctl", "cwd", "rlimit-name", "overlay", "namespace", "hook"])
def test_a_failed_create_names_its_cause_and_leaves_nothing(rig: Rig, stage: str) -> None:
    spec = rig.spec("true")
    assert spec.linux
    assert spec.process
    assert spec.linux.resources
    expected: type[WharfieError] = FailedPrecondition
    words = ""
    if stage == "mount":
        spec.mounts.append(s.Mount("/x", "tmpfs", "tmpfs", ["no-such-option=1"]))
        words = "no-such-option"
    elif stage == "cgroup":
        spec.linux.resources.cpu = s.CPU(cpus="4095")
        words = "cpuset.cpus"
    elif stage == "sysctl":
        spec.linux.sysctl = {"net.no.such": "1"}
        words = "net/no/such"
    elif stage == "cwd":
        spec.process.cwd = "/etc/passwd/x"
        words = "working directory"
    elif stage == "rlimit-name":
        spec.process.rlimits = [s.Rlimit("RLIMIT_NOPE", 1, 1)]
        expected, words = InvalidArgument, "RLIMIT_NOPE"
    elif stage == "overlay":
        (rig.top / "work").rmdir()
        words = "work"
    elif stage == "namespace":
        spec.linux.namespaces = [*spec.linux.namespaces, s.Namespace("time", "/no/where")]
        words = "/no/where"
    else:
        spec.hooks = s.Hooks(create_runtime=[s.Hook("/no/hook")])
        words = "/no/hook"
    with pytest.raises(expected, match=words) as e:
        rig.run(spec=spec)
    assert rig.id in str(e.value) or expected is InvalidArgument


def test_hook_timeout(rig: Rig) -> None:
    spec = rig.spec("true")
    spec.hooks = s.Hooks(create_runtime=[s.Hook("/bin/sleep", ["sleep", "30"], timeout=1)])
    with pytest.raises(FailedPrecondition, match="no end after 1 s"):
        rig.run(spec=spec)


def test_operations_in_the_wrong_state(rig: Rig) -> None:
    with pytest.raises(FailedPrecondition):
        rig.engine.start()
    with pytest.raises(NotFound):
        rig.engine.kill(9)
    started = rig.sleeping()
    with pytest.raises(FailedPrecondition, match="started"):
        rig.engine.start()
    with pytest.raises(FailedPrecondition, match="running"):
        rig.engine.delete()
    rig.end(started)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda sp: setattr(sp.linux, "intel_rdt", s.IntelRdt(clos_id="x")), Unsupported),
        (lambda sp: setattr(sp.process, "apparmor_profile", "x"), FailedPrecondition),
        (lambda sp: setattr(sp.process, "selinux_label", "x"), FailedPrecondition),
        (lambda sp: setattr(sp, "oci_version", "2.0.0"), Unsupported),
        (lambda sp: setattr(sp.linux, "cgroups_path", "system.slice:x:"), InvalidArgument),
        (lambda sp: setattr(sp.linux, "cgroups_path", "/a/../../b"), InvalidArgument),
        (lambda sp: setattr(sp.linux, "sysctl", {"kernel.hostname": "x"}), InvalidArgument),
        (lambda sp: setattr(sp.linux, "rootfs_propagation", "sideways"), InvalidArgument),
        (lambda sp: setattr(sp.process, "cwd", "relative"), InvalidArgument),
        (lambda sp: setattr(sp.process, "env", ["NAME"]), InvalidArgument),
    ],
)
def test_refused_before_anything_happens(tmp_path: Path, layer: Path, change, error: type[WharfieError]) -> None:
    if error is FailedPrecondition and (
        Path("/sys/kernel/security/apparmor").exists() or Path("/sys/fs/selinux").exists()
    ):
        pytest.skip("this host has the security module")
    with open_rig("linux", tmp_path, layer) as rig:
        spec = rig.spec("true")
        change(spec)
        with pytest.raises(error):
            rig.create(spec)


def test_seccomp_notify(rig: Rig) -> None:
    """The listener arrives with the container's state, and whoever holds it decides: mkdir fails with our errno."""
    path = rig.top / "listener"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        with short_name(str(path)) as name:
            server.bind(name)
        server.listen(2)
        spec = rig.spec("sh", "-c", "mkdir /tmp/d; echo done")
        assert spec.linux
        call = s.SeccompSyscall(["mkdir", "mkdirat"], "SCMP_ACT_NOTIFY")
        spec.linux.seccomp = s.Seccomp(
            "SCMP_ACT_ALLOW", listener_path=str(path), listener_metadata="meta", syscalls=[call]
        )
        r, w = os.pipe()
        started = rig.create(spec, Stdio(None, w, w))
        os.close(w)
        rig.engine.start()
        connection, _ = server.accept()
        with connection:
            data, fds, _, _ = socket.recv_fds(connection, 65536, 4)
        state = json.loads(data)
        assert (state["fds"], state["metadata"], state["pid"]) == (["seccompFd"], "meta", started.pid)
        assert state["state"]["id"] == rig.id
        (listener,) = fds
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        assert poll.poll(5000)
        # SECCOMP_IOCTL_NOTIF_RECV: struct seccomp_notif is 80 bytes, the response 24
        request = fcntl.ioctl(listener, 0xC0502100, bytes(80))
        (cookie,) = struct.unpack_from("Q", request)
        fcntl.ioctl(listener, 0xC0182101, struct.pack("QqiI", cookie, 0, -95, 0))
        os.close(listener)
        assert rig.reap(started) == 0
        assert "Operation not supported" in os.read(r, 4096).decode()
        os.close(r)
