# SPDX-License-Identifier: Apache-2.0
"""Published attacks on OCI runtimes, replayed. Each test is named after its id; rigs check for leaks by themselves."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from harness.runtime import BASE, Rig, busybox_layer, open_rig
from wharfie.errdefs import FailedPrecondition, InvalidArgument, WharfieError
from wharfie.linux.caps import NAMES
from wharfie.oci.seccomp import default_profile
from wharfie.runtime.linux.engine import LinuxEngine
from wharfie.spec import runtime as s

pytestmark = [pytest.mark.root]


@pytest.fixture
def layer() -> Iterator[Path]:
    """The image: an attacker wrote it."""
    need("busybox")
    with busybox_layer() as root:
        yield root


@pytest.fixture(params=["linux", "linux-userns"])
def rig(request: pytest.FixtureRequest, tmp_path: Path, layer: Path) -> Iterator[Rig]:
    with open_rig(request.param, tmp_path, layer) as rig:
        yield rig


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that nothing may be made in."""
    path = tmp_path / "outside"
    path.mkdir()
    path.chmod(0o777)
    yield path
    assert os.listdir(path) == []


def again(rig: Rig) -> Rig:
    """A rig's next container."""
    rig.engine.delete(force=True)
    rig.engine = LinuxEngine()
    return rig


def interpreter_hash() -> str:
    return hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).hexdigest()


def test_cve_2019_5736_program_overwritten_through_proc(tmp_path: Path, layer: Path) -> None:
    """A privileged container, in the host's user namespace, that writes to the program of whoever enters it."""
    with open_rig("wharfie-oci", tmp_path, layer) as rig:
        before = interpreter_hash()
        (layer / "self").write_text("#!/proc/self/exe\n")
        (layer / "self").chmod(0o755)
        attack = (
            "echo ready > /tmp/ready; while true; do for p in /proc/[0-9]*; do "
            "e=$(readlink $p/exe); case $e in /bin/busybox|'') ;; *) "
            "echo overwritten > $p/exe && echo won > /tmp/won; "
            "(exec 9<$p/exe; echo overwritten > /proc/self/fd/9 && echo won >> /tmp/won);; esac; done; done 2>/dev/null"
        )
        spec = rig.spec("sh", "-c", attack)
        assert spec.process
        spec.process.capabilities = s.Capabilities(bounding=[*NAMES], effective=[*NAMES], permitted=[*NAMES])
        started = rig.create(spec)
        rig.engine.start()
        while not (rig.top / "upper/tmp/ready").exists():
            pass
        for program in ("/self", "/bin/true", "/proc/self/exe", "/self"):
            try:
                rig.exec(program)
            except WharfieError:
                continue
        assert interpreter_hash() == before
        assert not (rig.top / "upper/tmp/won").exists()
        rig.end(started)


@pytest.mark.parametrize("destination", ["/proc", "/proc/self/attr", "/tmp/../proc", "/proc/sys"])
def test_cve_2019_16884_volume_over_proc(rig: Rig, destination: str) -> None:
    spec = rig.spec("true")
    spec.mounts.append(s.Mount(destination, "bind", str(rig.top), ["rbind"]))
    with pytest.raises(InvalidArgument, match="proc"):
        rig.run(spec=spec)


def test_cve_2019_16884_volume_over_proc_by_a_link(rig: Rig, layer: Path) -> None:
    (layer / "link").symlink_to("/proc/sys")
    spec = rig.spec("true")
    spec.mounts.append(s.Mount("/link", "bind", str(rig.top), ["rbind"]))
    with pytest.raises(InvalidArgument, match="leads into /proc"):
        rig.run(spec=spec)


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_cve_2019_19921_proc_is_a_link_in_the_image(rig: Rig, layer: Path, name: str) -> None:
    (layer / name).rmdir()
    (layer / name).symlink_to("/tmp")
    with pytest.raises(InvalidArgument, match="symbolic link in the image"):
        rig.run("true")


def test_cve_2021_30465_and_2024_45310_link_swapped_under_a_mount(rig: Rig, outside: Path) -> None:
    """Another container that shares the volume flips a mount's target between directory and link while we mount."""
    shared = rig.top / "shared"
    (shared / "real").mkdir(parents=True)
    (shared / "d").mkdir()
    shared.chmod(0o777)
    escape = "../" * 12 + str(outside)

    def flip() -> None:
        while True:
            try:
                os.rename(shared / "d", shared / "e")
                os.symlink(escape, shared / "d")
                os.unlink(shared / "d")
                os.rename(shared / "e", shared / "d")
            except OSError:
                continue

    (rig.top / "data").mkdir()
    (rig.top / "data/marker").write_text("volume")
    attacker = os.fork()
    if attacker == 0:
        try:
            flip()
        finally:
            os._exit(0)
    try:
        for _ in range(25):
            spec = rig.spec("sh", "-c", f"ls {outside}; ls /shared")
            maps = [s.IDMapping(0, BASE, 65536)] if rig.userns else []
            spec.mounts += [
                s.Mount("/shared", "bind", str(shared), ["rbind"], maps, maps),
                s.Mount("/shared/d/new", "bind", f"{rig.top}/data", ["rbind"], maps, maps),
            ]
            try:
                rig.run(spec=spec)
            except FailedPrecondition:
                pass  # it may lose the race, but only so
            assert os.listdir(outside) == []
            again(rig)
    finally:
        os.kill(attacker, signal.SIGKILL)
        try:
            os.waitpid(attacker, 0)
        except ChildProcessError:
            pass  # a rig reaps whatever ends


def test_cve_2022_29162_inheritable_capabilities(rig: Rig) -> None:
    started = rig.sleeping()
    caps = s.Capabilities(bounding=["CAP_CHOWN"], effective=["CAP_CHOWN"], permitted=["CAP_CHOWN"])
    _, out = rig.exec("grep", "CapInh", "/proc/self/status", capabilities=caps)
    assert int(out.split()[1], 16) == 0
    rig.end(started)


def test_cve_2023_25809_cgroups_writable(rig: Rig) -> None:
    spec = rig.spec(
        "sh", "-c", "mkdir /sys/fs/cgroup/x /sys/fs/cgroup/*/x; echo 1 > /sys/fs/cgroup/memory/release_agent"
    )
    assert spec.linux
    spec.linux.namespaces.append(s.Namespace("cgroup"))
    options = ["nosuid", "noexec", "nodev", "relatime", "ro"]
    spec.mounts.append(s.Mount("/sys/fs/cgroup", "cgroup", "cgroup", options))
    code, out = rig.run(spec=spec)
    assert code != 0
    assert "Read-only file system" in out
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{rig.id}/x"))


@pytest.mark.parametrize("how", ["run", "exec"])
def test_cve_2024_21626_working_directory_is_a_leaked_descriptor(rig: Rig, how: str) -> None:
    script = 'd=$(readlink -f .); case $(readlink /proc/self/cwd) in "(unreachable)"*|*rootfs*) echo ESCAPED;; esac; ls -d work'
    started = rig.sleeping() if how == "exec" else None
    for n in range(3, 24):
        for path in (f"/proc/self/fd/{n}", f"/proc/self/fd/{n}/../../.."):
            try:
                if how == "exec":
                    _, out = rig.exec("sh", "-c", script, cwd=path)
                else:
                    _, out = rig.run("sh", "-c", script, cwd=path)
                    again(rig)
            except WharfieError:
                if how == "run":
                    again(rig)
                continue
            assert "ESCAPED" not in out
            assert "\nwork" not in out
        if how == "run" and n >= 14:
            break
    if started is not None:
        rig.end(started)


def test_cve_2024_21626_no_descriptor_is_left(rig: Rig) -> None:
    extra = os.open("/", os.O_RDONLY)
    os.set_inheritable(extra, True)
    try:
        _, out = rig.run("sh", "-c", "ls /proc/1/fd; true")
        assert out.split() == ["0", "1", "2"]
        again(rig)
        started = rig.sleeping()
        _, out = rig.exec("sh", "-c", "ls /proc/$$/fd; true")
        assert out.split() == ["0", "1", "2"]
        rig.end(started)
    finally:
        os.close(extra)


def test_cve_2025_31133_null_device_swapped_for_a_link(rig: Rig, layer: Path) -> None:
    """Without a /dev of its own the image's is used: masks must not come from it."""
    (layer / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")
    spec = rig.spec(
        "sh", "-c", "cat /proc/keys; cat /proc/timer_list; ls -l /proc/keys; echo x > /proc/sys/kernel/core_pattern"
    )
    spec.mounts = [m for m in spec.mounts if not m.destination.startswith("/dev")]
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    _, out = rig.run(spec=spec)
    assert out.startswith("crw-rw-rw-"), "what the masks show is empty"
    assert "core_pattern: Read-only file system" in out
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_cve_2025_52565_console_is_a_link(rig: Rig, layer: Path) -> None:
    (layer / "dev/console").symlink_to("/proc/sysrq-trigger")
    spec = rig.spec("sh", "-c", "echo 0 > /proc/sysrq-trigger; mount", terminal=True)
    spec.mounts = [m for m in spec.mounts if m.destination != "/dev/mqueue"]
    started = rig.create(spec)
    assert started.console is not None
    rig.engine.start()
    out = b""
    try:
        while data := os.read(started.console, 4096):
            out += data
    except OSError:
        pass
    os.close(started.console)
    rig.reap(started)
    assert b"can't create /proc/sysrq-trigger" in out
    assert not [line for line in out.splitlines() if b"devpts on /proc" in line]


def test_cve_2025_52881_sysctls_go_to_procfs_alone(rig: Rig, layer: Path) -> None:
    """The image has files where the sysctl would be written, and mounts that would cover them are refused."""
    fake = layer / "proc/sys/net/ipv4"
    fake.mkdir(parents=True)
    (fake / "ip_forward").write_text("fake")
    spec = rig.spec("cat", "/proc/sys/net/ipv4/ip_forward")
    assert spec.linux
    spec.linux.sysctl = {"net.ipv4.ip_forward": "1"}
    assert rig.run(spec=spec) == (0, "1\n")
    assert (fake / "ip_forward").read_text() == "fake"
    again(rig)
    for name in ("kernel.core_pattern", "net/../kernel/core_pattern", "net.ipv4/../../kernel/core_pattern"):
        spec.linux.sysctl = {name: "|/evil"}
        with pytest.raises(WharfieError):
            rig.run(spec=spec)
        again(rig)
    assert "evil" not in Path("/proc/sys/kernel/core_pattern").read_text()


def test_cve_2026_41579_dev_is_a_link_to_a_host_directory(rig: Rig, layer: Path, outside: Path) -> None:
    shutil.rmtree(layer / "dev")
    (layer / "dev").symlink_to(outside)
    try:
        rig.run("true")
    except WharfieError:
        pass


def test_cve_2019_14271_python_twin(rig: Rig, layer: Path) -> None:
    """Modules planted in the image at the host's paths are never loaded by the process that enters it."""
    for top in {p for p in sys.path if p.startswith("/")}:
        for module in (
            "fcntl",
            "warnings",
            "subprocess",
            "traceback",
            "encodings/idna",
            "encodings/ascii",
            "json/__init__",
        ):
            path = layer / top.lstrip("/") / f"{module}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("open('/tmp/owned','w').write('x')\n")
    rig.run("true")
    again(rig)
    with pytest.raises(WharfieError):
        rig.run("nope\u00e9")
    again(rig)
    started = rig.sleeping()
    with pytest.raises(WharfieError):
        rig.exec("nope")
    rig.end(started)
    assert not (rig.top / "upper/tmp/owned").exists()


@pytest.mark.parametrize(("uid", "gid"), [(2**31, 0), (2**32, 1), (0, 2**31), (-1, 0)])
def test_cve_2024_40635_uid_beyond_31_bits(rig: Rig, uid: int, gid: int) -> None:
    with pytest.raises(InvalidArgument, match="out of range"):
        rig.run("true", user=s.User(uid=uid, gid=gid))


def test_cve_2021_43784_large_configuration(rig: Rig) -> None:
    """More mounts and text than fits any 16-bit length or one message's descriptors."""
    spec = rig.spec("sh", "-c", "mount | wc -l", env=["PATH=/bin", *(f"V{n}={'x' * 100}" for n in range(900))])
    spec.mounts += [s.Mount(f"/m/{'d' * 200}{n}", "tmpfs", "tmpfs", ["size=4k"]) for n in range(40)]
    spec.mounts += [s.Mount(f"/etc/f{n}", "bind", "/etc/hostname", ["bind", "ro"]) for n in range(260)]
    code, out = rig.run(spec=spec)
    assert code == 0
    assert int(out) > 300


def test_cve_2022_0492_and_0185_mount_in_a_new_user_namespace(rig: Rig) -> None:
    spec = rig.spec("sh", "-c", "unshare -Ur true; echo $?; mount -t tmpfs x /tmp; echo $?")
    assert spec.linux
    spec.linux.seccomp = default_profile("amd64", frozenset({"CAP_CHOWN"}))
    _, out = rig.run(spec=spec)
    assert "0\n" not in out


def test_devices_cannot_be_made_or_opened(rig: Rig) -> None:
    disk = os.stat("/").st_dev
    node = f"{os.major(disk)} {os.minor(disk)}"
    script = f"mknod /tmp/disk b {node} && dd if=/tmp/disk bs=1 count=1; echo $?; dd if=/dev/mem bs=1 count=1; echo $?"
    caps = [*NAMES]
    spec = rig.spec("sh", "-c", script)
    assert spec.process
    spec.process.capabilities = s.Capabilities(bounding=caps, effective=caps, permitted=caps)
    _, out = rig.run(spec=spec)
    assert "0\n" not in out


def test_nothing_of_the_runtime_is_open_or_readable_at_the_gate(rig: Rig) -> None:
    """Between create and start the process is the runtime's, inside: not dumpable, and without the host's descriptors."""
    kept = os.open("/etc/hostname", os.O_RDONLY)
    try:
        started = rig.create(rig.spec("true"))
        links = [os.readlink(f"/proc/{started.pid}/fd/{n}") for n in os.listdir(f"/proc/{started.pid}/fd")]
        assert not [link for link in links if "hostname" in link]
        assert not [link for link in links if link.startswith((str(rig.top), "/sys/fs/cgroup", "/var/tmp"))]
        assert os.stat(f"/proc/{started.pid}/exe", follow_symlinks=False).st_uid == 0, "it belongs to host root"
        rig.engine.start()
        assert rig.reap(started) == 0
    finally:
        os.close(kept)
