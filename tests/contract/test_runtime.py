# SPDX-License-Identifier: Apache-2.0
"""The Engine contract on every engine: ours with and without a user namespace, runc, crun, and wharfie-oci itself."""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from harness.runtime import BASE, Rig, busybox_layer, open_rig
from wharfie.errdefs import FailedPrecondition, NotFound, PermissionDenied, WharfieError
from wharfie.runtime import Stdio
from wharfie.spec import runtime as s

pytestmark = [pytest.mark.root]
KINDS = ("linux", "linux-userns", "runc", "crun", "wharfie-oci")


@pytest.fixture(scope="module")
def layer() -> Iterator[Path]:
    need("busybox")
    with busybox_layer() as root:
        yield root


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest, tmp_path: Path, layer: Path) -> Iterator[Rig]:
    if request.param in {"runc", "crun"}:
        need(request.param)
    with open_rig(request.param, tmp_path, layer) as rig:
        yield rig


def test_exit_code_output_and_environment(rig: Rig) -> None:
    code, out = rig.run("sh", "-c", "echo $A; id -u; hostname; pwd; exit 7", env=["PATH=/bin", "A=b c"], cwd="/tmp")
    assert (code, out.split("\n")) == (7, ["b c", "0", "box", "/tmp", ""])


def test_home_comes_from_the_images_passwd(rig: Rig) -> None:
    user = s.User(uid=1000, gid=1000, additional_gids=[2000, 2001])
    code, out = rig.run("sh", "-c", "echo $HOME; id -u; id -g; id -G", user=user)
    assert (code, out.split("\n")[:3]) == (0, ["/home/user", "1000", "1000"])
    assert set(out.split("\n")[3].split()) == {"1000", "2000", "2001"}


@pytest.mark.parametrize(
    ("program", "error"), [("nope", NotFound), ("/no/where", NotFound), ("/etc/passwd", PermissionDenied)]
)
def test_program_that_cannot_be_run(rig: Rig, program: str, error: type[WharfieError]) -> None:
    with pytest.raises(error):
        rig.run(program)


def test_nothing_runs_before_start(rig: Rig) -> None:
    started = rig.create(rig.spec("touch", "/tmp/ran"))
    assert not (rig.top / "upper/tmp/ran").exists()
    rig.engine.start()
    assert rig.reap(started) == 0
    assert (rig.top / "upper/tmp/ran").exists()


def test_ownership_on_disk_is_the_containers(rig: Rig) -> None:
    code, out = rig.run("sh", "-c", "stat -c %u:%g /data/file; touch /data/new; mkdir /data/dir")
    assert (code, out) == (0, "5:6\n")
    assert (rig.top / "upper/data/new").stat().st_uid == 0
    assert (rig.top / "upper/data/dir").stat().st_uid == 0


def test_exec(rig: Rig) -> None:
    started = rig.sleeping()
    assert rig.exec("sh", "-c", "id -u; exit 4", user=s.User(uid=1000, gid=1000)) == (4, "1000\n")
    assert rig.exec("sh", "-c", "readlink /proc/1/exe")[1] == "/bin/busybox\n"
    with pytest.raises(NotFound):
        rig.exec("nope")
    with pytest.raises(PermissionDenied):
        rig.exec("/etc/passwd")
    end = time.monotonic() + 2  # what a foreign runtime leaves of a failed exec takes a moment to go
    while len(rig.engine.pids()) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(rig.engine.pids()) == 1
    rig.end(started)


def test_terminal(rig: Rig) -> None:
    started = rig.create(
        rig.spec("sh", "-c", "tty; stty size; test -c /dev/console", terminal=True, console_size=s.Box(24, 80))
    )
    assert started.console is not None
    rig.engine.start()
    out = b""
    try:
        while data := os.read(started.console, 4096):
            out += data
    except OSError:
        pass
    os.close(started.console)
    assert rig.reap(started) == 0
    lines = out.decode().split()
    assert lines[0] in {"/dev/pts/0", "/dev/console"}
    assert lines[1:] == ["24", "80"]


def test_terminal_of_exec(rig: Rig) -> None:
    started = rig.sleeping()
    child = rig.engine.exec("t", s.Process(cwd="/", args=["/bin/tty"], terminal=True), Stdio())
    assert child.console is not None
    out = b""
    try:
        while data := os.read(child.console, 4096):
            out += data
    except OSError:
        pass
    os.close(child.console)
    assert rig.reap(child) == 0
    assert out.strip() == b"/dev/pts/0"
    rig.end(started)


def test_kill(rig: Rig) -> None:
    started = rig.sleeping()
    rig.engine.kill(signal.SIGKILL)
    assert rig.reap(started) == -signal.SIGKILL
    with pytest.raises(NotFound):
        rig.engine.kill(signal.SIGTERM)
    rig.engine.delete()
    rig.engine.delete()


def test_pause_resume(rig: Rig) -> None:
    started = rig.sleeping()
    rig.engine.pause()
    with pytest.raises(WharfieError):
        rig.exec("true")
    rig.engine.resume()
    assert rig.exec("true") == (0, "")
    rig.end(started)


def test_limits_stats_update(rig: Rig) -> None:
    started = rig.sleeping(memory=s.Memory(limit=64 << 20), pids=s.Pids(20), cpu=s.CPU(shares=512))
    stats = rig.engine.stats()
    for _ in range(100):  # runc's own threads take a moment to end
        if stats.pids_current == 1:
            break
        time.sleep(0.01)
        stats = rig.engine.stats()
    assert (stats.memory_limit_bytes, stats.pids_limit, stats.pids_current) == (64 << 20, 20, 1)
    assert stats.cpu_usage_ns > 0
    assert stats.memory_usage_bytes > 0
    rig.engine.update(s.Resources(memory=s.Memory(limit=32 << 20)))
    assert rig.engine.stats().memory_limit_bytes == 32 << 20
    rig.end(started)


def test_oom(rig: Rig) -> None:
    spec = rig.spec("sh", "-c", "a=x; while true; do a=$a$a; done")
    assert spec.linux
    assert spec.linux.resources
    spec.linux.resources.memory = s.Memory(limit=16 << 20, swap=16 << 20)
    started = rig.create(spec)
    fd = rig.engine.oom_fd()
    assert fd is not None
    rig.engine.start()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(10_000)
    assert rig.reap(started) == -signal.SIGKILL
    assert rig.engine.stats().oom_kills >= 1
    os.close(fd)


def test_mounts(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "vol").mkdir()
    (tmp_path / "vol/f").write_text("from the host")
    (tmp_path / "single").write_text("one file")
    spec = rig.spec("sh", "-c", "cat /vol/f /etc/single; mount; echo x > /vol/g; echo x > /new/dir/g")
    maps = [s.IDMapping(0, BASE, 65536)] if rig.userns else []
    spec.mounts += [
        s.Mount("/vol", "bind", f"{tmp_path}/vol", ["rbind", "ro", "nosuid"], maps, maps),
        s.Mount("/new/dir", "bind", f"{tmp_path}/vol", ["rbind"], maps, maps),
        s.Mount("/etc/single", "bind", f"{tmp_path}/single", ["bind", "ro"], maps, maps),
        s.Mount("/run", "tmpfs", "tmpfs", ["nosuid", "size=1m", "mode=700"]),
    ]
    _, out = rig.run(spec=spec)
    assert out.startswith("from the hostone file")
    assert "can't create /vol/g: Read-only file system" in out
    assert "size=1024k,mode=700" in out
    assert (tmp_path / "vol/g").exists()
    assert (tmp_path / "vol/g").stat().st_uid == 0


def test_missing_bind_source(rig: Rig) -> None:
    spec = rig.spec("true")
    spec.mounts.append(s.Mount("/x", "bind", f"{rig.top}/missing", ["bind"]))
    with pytest.raises(FailedPrecondition, match="missing"):
        rig.run(spec=spec)


def test_protected_paths_and_capabilities(rig: Rig) -> None:
    script = (
        "echo x > /proc/sys/kernel/core_pattern; ls /proc/acpi /sys/firmware | wc -l; cat /proc/keys | wc -c;"
        "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status; ls /proc/self/fd | wc -l; echo > /dev/null"
    )
    _, out = rig.run("sh", "-c", script)
    assert "core_pattern: Read-only file system" in out
    found = dict(line.split(":\t") for line in out.splitlines() if line.startswith("Cap"))
    mask = sum(1 << n for n in (0, 5, 6, 7, 13))
    assert {k: int(v, 16) for k, v in found.items()} == {
        "CapInh": 0, "CapPrm": mask, "CapEff": mask, "CapBnd": mask, "CapAmb": 0,
    }  # fmt: skip


def test_read_only_root_umask_nnp_rlimit(rig: Rig) -> None:
    spec = rig.spec(
        "sh", "-c", "touch /x; umask; grep NoNewPrivs /proc/self/status; ulimit -n",
        user=s.User(umask=0o027), no_new_privileges=True, rlimits=[s.Rlimit("RLIMIT_NOFILE", 100, 100)],
    )  # fmt: skip
    assert spec.root
    spec.root.readonly = True
    _, out = rig.run(spec=spec)
    assert "/x: Read-only file system" in out
    assert out.split()[-4:] == ["0027", "NoNewPrivs:", "1", "100"]


def test_sysctl_and_seccomp(rig: Rig) -> None:
    spec = rig.spec("sh", "-c", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni; mkdir /tmp/d; echo $?")
    assert spec.linux
    spec.linux.sysctl = {"net.ipv4.ip_forward": "1", "kernel.shmmni": "77"}
    calls = [s.SeccompSyscall(["mkdir", "mkdirat"], "SCMP_ACT_ERRNO", 95)]
    spec.linux.seccomp = s.Seccomp("SCMP_ACT_ALLOW", architectures=["SCMP_ARCH_X86_64"], syscalls=calls)
    _, out = rig.run(spec=spec)
    assert out.split("\n")[:2] == ["1", "77"]
    assert "Operation not supported" in out


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that container root can write to: pytest's own lies below a private one."""
    top = Path(tempfile.mkdtemp(prefix="wharfie-hooks-", dir="/var/tmp"))
    top.chmod(0o777)
    yield top
    shutil.rmtree(top)


def test_hooks(rig: Rig, open_dir: Path) -> None:
    tmp_path = open_dir
    log = tmp_path / "hooks"
    log.touch(0o666)
    log.chmod(0o666)

    def hook(name: str) -> list[s.Hook]:
        script = f"cat > {tmp_path}/state-{name}; echo {name} >> {log}"
        return [s.Hook("/bin/sh", ["sh", "-c", script], ["PATH=/bin:/usr/bin"])]

    spec = rig.spec("true")
    spec.hooks = s.Hooks(
        prestart=hook("prestart"), create_runtime=hook("createRuntime"), create_container=hook("createContainer"),
        poststart=hook("poststart"), poststop=hook("poststop"),
    )  # fmt: skip
    rig.run(spec=spec)
    rig.engine.delete()
    order = log.read_text().split()
    assert order == ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    state = (tmp_path / "state-createRuntime").read_text()
    assert f'"id":"{rig.id}"' in state
    assert '"ociVersion":"' in state


def test_failed_hook_stops_the_create(rig: Rig) -> None:
    spec = rig.spec("true")
    spec.hooks = s.Hooks(create_runtime=[s.Hook("/bin/sh", ["sh", "-c", "echo no such luck >&2; exit 3"])])
    with pytest.raises(FailedPrecondition):
        rig.run(spec=spec)


def test_joined_namespaces(rig: Rig) -> None:
    if rig.userns:
        pytest.skip("the joined ones belong to the host's user namespace")
    pid = os.fork()
    if pid == 0:
        from wharfie.linux import namespaces

        namespaces.unshare(namespaces.CLONE_NEWNET | namespaces.CLONE_NEWUTS)
        namespaces.sethostname("joined")
        signal.pause()
    try:
        while os.readlink(f"/proc/{pid}/ns/uts") == os.readlink("/proc/self/ns/uts"):
            pass
        spec = rig.spec("sh", "-c", "readlink /proc/self/ns/net; hostname")
        assert spec.linux
        spec.linux.namespaces = [
            s.Namespace("pid"), s.Namespace("ipc"), s.Namespace("mount"),
            s.Namespace("network", f"/proc/{pid}/ns/net"), s.Namespace("uts", f"/proc/{pid}/ns/uts"),
        ]  # fmt: skip
        spec.hostname = ""
        wanted = os.readlink(f"/proc/{pid}/ns/net")
        _, out = rig.run(spec=spec)
        assert out.split() == [wanted, "joined"]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_kill_all_without_pid_namespace(rig: Rig) -> None:
    if rig.userns:
        pytest.skip("host namespaces mean the host's user namespace")
    spec = rig.spec("sh", "-c", "sleep 100 & sleep 100 & sleep 100")
    assert spec.linux
    spec.linux.namespaces = [n for n in spec.linux.namespaces if n.type != "pid"]
    started = rig.create(spec)
    rig.engine.start()
    while len(rig.engine.pids()) < 3:
        pass
    rig.engine.kill(signal.SIGKILL, all_processes=True)
    assert rig.reap(started) == -signal.SIGKILL
    rig.engine.delete()
