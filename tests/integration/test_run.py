# SPDX-License-Identifier: Apache-2.0
"""`wharfie run` as people use it: the whole way, on the real kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from harness.engine import BIN, WHARFIE, Engine
from harness.host import settle_cgroups

pytestmark = [pytest.mark.root]


def sh(engine: Engine, image: str, script: str, *flags: str) -> str:
    return engine.out("run", "--rm", *flags, image, "sh", "-c", script)


def test_output_error_and_exit_code(engine: Engine, busybox: str) -> None:
    done = engine.run("run", "--rm", busybox, "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.stdout, done.stderr.splitlines()[-1], done.returncode) == (b"out\n", b"err", 7)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["/no/such/thing"], 127),
        (["nosuchcommand"], 127),
        (["/etc/passwd"], 126),
        (["/etc"], 126),
        (["sh", "-c", "kill -TERM $$; sleep 5"], None),
    ],
)
def test_exit_codes(engine: Engine, busybox: str, command: list[str], code: int | None) -> None:
    done = engine.run("run", "--rm", "--init", busybox, *command, check=False)
    assert done.returncode == (code if code is not None else 128 + signal.SIGTERM), done.stderr
    if code in {126, 127}:
        assert command[0].encode() in done.stderr


def test_signal_death_of_pid_1(engine: Engine, busybox: str) -> None:
    name = engine.out("run", "-d", busybox, "sleep", "1000")
    engine.run("kill", name)
    assert engine.out("wait", name) == "137"


def test_stdin_is_carried(engine: Engine, busybox: str) -> None:
    data = os.urandom(1 << 20)
    done = engine.run("run", "--rm", "-i", busybox, "cat", stdin=data)
    assert done.stdout == data


def test_without_i_stdin_is_empty(engine: Engine, busybox: str) -> None:
    assert engine.run("run", "--rm", busybox, "cat", stdin=b"not for you").stdout == b""


def test_environment(engine: Engine, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\nFROM_FILE=a b\nHOST_VALUE\n")
    done = subprocess.run(
        [WHARFIE, "run", "--rm", "-e", "A=1", "-e", "HOST_VALUE", "--env-file", str(tmp_path / "env"), "-h", "box", busybox, "env"],
        env={**engine.env(), "HOST_VALUE": "from host"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert found["A"] == "1"
    assert found["FROM_FILE"] == "a b"
    assert found["HOST_VALUE"] == "from host"
    assert found["HOSTNAME"] == "box"
    assert found["HOME"] == "/root"
    assert "/bin" in found["PATH"]
    assert "TERM" not in found


def test_user_group_and_directory(engine: Engine, busybox: str) -> None:
    assert (
        sh(engine, busybox, "id -u; id -g; id -G; pwd", "-u", "user:extra", "-w", "/tmp/made")
        == "1000\n2000\n2000\n/tmp/made"
    )
    assert sh(engine, busybox, "id -u; id -G", "-u", "user") == "1000\n1000 2000"
    assert sh(engine, busybox, "id -u; id -g", "-u", "1234:4321") == "1234\n4321"
    done = engine.run("run", "--rm", "-u", "nobodyhere", busybox, "true", check=False)
    assert done.returncode == 125
    assert b"nobodyhere" in done.stderr


def test_generated_files(engine: Engine, busybox: str) -> None:
    out = sh(
        engine,
        busybox,
        "hostname; cat /etc/hostname; cat /etc/hosts; ls /etc/resolv.conf",
        "--hostname",
        "somebox",
        "--add-host",
        "other:10.1.2.3",
    )
    assert out.splitlines()[:2] == ["somebox", "somebox"]
    assert "127.0.0.1\tlocalhost" in out
    assert "10.1.2.3\tother" in out


def test_default_container_has_its_own_user_namespace(engine: Engine, busybox: str) -> None:
    mine = Path("/proc/self/uid_map").read_text().split()
    base = sh(engine, busybox, "cat /proc/self/uid_map").split()
    assert base[0] == "0"
    assert int(base[1]) > 65535, "root in the container is nobody on the host"
    assert sh(engine, busybox, "cat /proc/self/uid_map", "--userns", "host").split() == mine
    assert sh(engine, busybox, "cat /proc/self/uid_map", "--privileged").split() == mine


def test_two_containers_have_different_ids(engine: Engine, busybox: str) -> None:
    names = [engine.out("run", "-d", busybox, "sleep", "1000") for _ in range(2)]
    bases = {engine.out("exec", n, "cat", "/proc/self/uid_map").split()[1] for n in names}
    assert len(bases) == 2


def test_bind_mount_keeps_ownership(engine: Engine, busybox: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "given").write_text("data")
    os.chown(tmp_path / "given", 1000, 1000)
    out = sh(
        engine,
        busybox,
        "stat -c '%u %g' /m/given; echo new > /m/new; chown 5:6 /m/new; cat /m/given",
        "-v",
        f"{tmp_path}:/m",
    )
    assert out == "1000 1000\ndata"
    made = (tmp_path / "new").stat()
    assert (made.st_uid, made.st_gid) == (5, 6)


def test_read_only_bind(engine: Engine, busybox: str, tmp_path: Path) -> None:
    done = engine.run("run", "--rm", "-v", f"{tmp_path}:/m:ro", busybox, "touch", "/m/x", check=False)
    assert done.returncode == 1
    assert b"Read-only file system" in done.stderr
    assert not (tmp_path / "x").exists()


def test_missing_bind_source_with_mount_flag(engine: Engine, busybox: str, tmp_path: Path) -> None:
    done = engine.run("run", "--rm", "--mount", f"type=bind,src={tmp_path}/none,dst=/m", busybox, "true", check=False)
    assert done.returncode == 125
    assert f"{tmp_path}/none".encode() in done.stderr


def test_named_volume_lives_on(engine: Engine, busybox: str) -> None:
    sh(engine, busybox, "echo kept > /v/f", "-v", "keepit:/v")
    assert sh(engine, busybox, "cat /v/f", "-v", "keepit:/v") == "kept"
    assert "keepit" in engine.out("volume", "ls", "-q").split()
    engine.run("volume", "rm", "keepit")


def test_empty_volume_is_filled_from_the_image(engine: Engine, busybox: str) -> None:
    assert "passwd" in sh(engine, busybox, "ls /etc", "-v", "filled:/etc")
    assert sh(engine, busybox, "stat -c %u:%g:%a /h", "-v", "filled2:/h", "--mount", "type=tmpfs,dst=/t") == "0:0:755"
    assert "passwd" not in sh(engine, busybox, "ls /etc", "-v", "empty:/etc:nocopy")
    engine.run("volume", "rm", "filled", "filled2", "empty")


def test_tmpfs(engine: Engine, busybox: str) -> None:
    out = sh(engine, busybox, "grep ' /t ' /proc/mounts; df -k /t | tail -1", "--tmpfs", "/t:size=1m,mode=1777")
    assert "tmpfs /t" in out
    assert "1024" in out


def test_entrypoint_and_arguments(engine: Engine, busybox: str) -> None:
    assert engine.out("run", "--rm", "--entrypoint", "echo", busybox, "a", "b") == "a b"


def test_namespaces_are_own(engine: Engine, busybox: str) -> None:
    out = sh(
        engine, busybox, "echo $$; for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done"
    ).splitlines()
    assert out[0] == "1"
    for line in out[1:]:
        kind = line.split(":")[0]
        assert line != os.readlink(f"/proc/self/ns/{kind}"), kind


def test_network_none_and_host(engine: Engine, busybox: str) -> None:
    assert sh(engine, busybox, "ip -o link | wc -l", "--network", "none") == "1"
    out = sh(engine, busybox, "readlink /proc/self/ns/net; cat /sys/class/net/lo/operstate", "--network", "host")
    assert out.splitlines()[0] == os.readlink("/proc/self/ns/net")


def test_network_of_another_container(engine: Engine, busybox: str) -> None:
    engine.run("run", "-d", "--name", "netowner", busybox, "sleep", "1000")
    own = engine.out("exec", "netowner", "readlink", "/proc/self/ns/net")
    assert sh(engine, busybox, "readlink /proc/self/ns/net", "--network", "container:netowner") == own
    assert (
        sh(
            engine,
            busybox,
            "kill -0 1 && readlink /proc/1/ns/pid; ps | grep -c 'sleep 1000'",
            "--pid",
            "container:netowner",
        ).splitlines()[-1]
        != "0"
    )


def test_limits_reach_the_cgroup(engine: Engine, busybox: str) -> None:
    name = engine.out(
        "run", "-d", "-m", "64m", "--pids-limit", "50", "--cpus", "0.5", "--cpu-shares", "512", busybox, "sleep", "1000"
    )
    groups = dict(
        line.split(":", 2)[1:]
        for line in Path(f"/proc/{engine.out('inspect', '-f', '{{.State.Pid}}', name)}/cgroup").read_text().splitlines()
    )
    assert Path(f"/sys/fs/cgroup/memory{groups['memory']}/memory.limit_in_bytes").read_text().strip() == str(64 << 20)
    assert Path(f"/sys/fs/cgroup/pids{groups['pids']}/pids.max").read_text().strip() == "50"
    cpu = next(k for k in groups if "cpu" in k.split(","))
    assert Path(f"/sys/fs/cgroup/{cpu}{groups[cpu]}/cpu.cfs_quota_us").read_text().strip() == "50000"
    engine.run("update", "-m", "128m", "--memory-swap", "-1", name)
    assert Path(f"/sys/fs/cgroup/memory{groups['memory']}/memory.limit_in_bytes").read_text().strip() == str(128 << 20)


def test_out_of_memory_is_seen(engine: Engine, busybox: str) -> None:
    name = engine.out("run", "-d", "-m", "16m", busybox, "sh", "-c", "tail /dev/zero; tail /dev/zero")
    assert engine.out("wait", name) == "137"
    assert engine.out("inspect", "-f", "{{.State.OOMKilled}}", name) == "true"


def caps(engine: Engine, image: str, *flags: str) -> int:
    return int(sh(engine, image, "grep CapEff /proc/self/status", *flags).split()[1], 16)


def test_capabilities(engine: Engine, busybox: str) -> None:
    default = caps(engine, busybox)
    assert default == 0x00000000A80425FB
    assert caps(engine, busybox, "--cap-drop", "ALL") == 0
    assert caps(engine, busybox, "--cap-drop", "ALL", "--cap-add", "NET_ADMIN") == 1 << 12
    assert caps(engine, busybox, "--cap-add", "sys_ptrace") == default | 1 << 19
    done = engine.run("run", "--rm", "--cap-add", "NOSUCH", busybox, "true", check=False)
    assert done.returncode == 125
    assert b"NOSUCH" in done.stderr


def test_read_only_root(engine: Engine, busybox: str) -> None:
    done = engine.run("run", "--rm", "--read-only", busybox, "touch", "/x", check=False)
    assert done.returncode == 1
    sh(engine, busybox, "touch /dev/shm/x", "--read-only")


def test_security_defaults(engine: Engine, busybox: str) -> None:
    status = sh(engine, busybox, "cat /proc/self/status")
    assert "Seccomp:\t2" in status
    assert "CapInh:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in sh(engine, busybox, "cat /proc/self/status", "--security-opt", "no-new-privileges")
    assert "Seccomp:\t0" in sh(engine, busybox, "cat /proc/self/status", "--security-opt", "seccomp=unconfined")
    assert "Seccomp:\t0" in sh(engine, busybox, "cat /proc/self/status", "--privileged")


def test_init_reaps_and_forwards(engine: Engine, busybox: str) -> None:
    out = sh(engine, busybox, "cat /proc/1/comm; echo $$", "--init").splitlines()
    assert out[0] != "sh"
    assert out[1] != "1"
    name = engine.out(
        "run", "-d", "--init", busybox, "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    )
    while engine.out("logs", name) != "ready":
        time.sleep(0.02)
    engine.run("stop", "-t", "10", name)
    assert engine.out("inspect", "-f", "{{.State.ExitCode}}", name) == "9"


def test_ulimit_sysctl_shm(engine: Engine, busybox: str) -> None:
    assert sh(engine, busybox, "ulimit -n", "--ulimit", "nofile=512:1024") == "512"
    assert sh(engine, busybox, "cat /proc/sys/kernel/msgmax", "--sysctl", "kernel.msgmax=12345") == "12345"
    assert "32768" in sh(engine, busybox, "df -k /dev/shm | tail -1", "--shm-size", "32m")


def test_detached_name_and_inspect(engine: Engine, busybox: str) -> None:
    container_id = engine.out("run", "-d", "--name", "named", "--label", "a=b", busybox, "sleep", "1000")
    assert len(container_id) == 64
    (info,) = json.loads(engine.out("inspect", "named"))
    assert info["Id"] == container_id
    assert info["Name"] == "/named"
    assert info["State"]["Running"] is True
    assert info["Config"]["Labels"]["a"] == "b"
    assert info["Path"] == "sleep"
    assert container_id[:12] in engine.out("ps")
    done = engine.run("run", "--name", "named", busybox, "true", check=False)
    assert done.returncode == 125
    assert b"named" in done.stderr


def test_exec(engine: Engine, busybox: str) -> None:
    engine.run("run", "-d", "--name", "x", "-e", "A=1", busybox, "sleep", "1000")
    assert (
        engine.out("exec", "-e", "B=2", "-w", "/tmp", "-u", "user", "x", "sh", "-c", "echo $A $B $PWD $(id -u)")
        == "1 2 /tmp 1000"
    )
    assert engine.run("exec", "x", "sh", "-c", "exit 5", check=False).returncode == 5
    assert engine.run("exec", "x", "nosuch", check=False).returncode == 127
    assert engine.run("exec", "-i", "x", "cat", stdin=b"through").stdout == b"through"
    engine.run("exec", "-d", "x", "touch", "/tmp/flag")
    for _ in range(100):
        if engine.run("exec", "x", "test", "-e", "/tmp/flag", check=False).returncode == 0:
            break
        time.sleep(0.02)
    else:
        raise AssertionError("exec -d did nothing")


def test_logs(engine: Engine, busybox: str) -> None:
    engine.run("run", "--name", "l", busybox, "sh", "-c", "for i in 1 2 3; do echo line $i; done; echo bad >&2")
    done = engine.run("logs", "l")
    assert done.stdout == b"line 1\nline 2\nline 3\n"
    assert done.stderr == b"bad\n"
    assert (
        engine.run("logs", "--tail", "2", "l").stdout + engine.run("logs", "--tail", "2", "l").stderr
        == b"line 3\nbad\n"
    )
    stamped = engine.out("logs", "-t", "l").splitlines()[0]
    assert stamped.startswith("20")
    assert stamped.endswith("Z line 1")


def test_logs_follow_ends_with_the_container(engine: Engine, busybox: str) -> None:
    engine.run("run", "-d", "--name", "f", busybox, "sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")
    assert engine.out("logs", "-f", "f") == "1\n2\n3\n4\n5"


def test_attach(engine: Engine, busybox: str) -> None:
    engine.run("create", "-i", "--name", "a", busybox, "cat")
    assert engine.run("start", "-a", "-i", "a", stdin=b"echoed\n").stdout.startswith(b"echoed\n")
    engine.run("run", "-d", "--name", "b", busybox, "sh", "-c", "sleep 0.5; echo late; exit 4")
    done = engine.run("attach", "b", check=False)
    assert (done.stdout, done.returncode) == (b"late\n", 4)


def test_pause_top_stats_restart_rename(engine: Engine, busybox: str) -> None:
    engine.run("run", "-d", "--name", "p", busybox, "sleep", "1000")
    engine.run("pause", "p")
    assert engine.out("inspect", "-f", "{{.State.Status}}", "p") == "paused"
    engine.run("unpause", "p")
    assert "sleep 1000" in engine.out("top", "p")
    assert "p" in engine.out("stats", "--no-stream", "p")
    before = engine.out("inspect", "-f", "{{.State.Pid}}", "p")
    engine.run("restart", "-t", "0", "p")
    assert engine.out("inspect", "-f", "{{.State.Pid}}", "p") != before
    engine.run("rename", "p", "q")
    assert engine.out("ps", "--format", "{{.Names}}") == "q"
    engine.run("rm", "-f", "q")


def test_changes_survive_a_restart(engine: Engine, busybox: str) -> None:
    engine.run("run", "--name", "c", busybox, "sh", "-c", "echo once >> /root/f")
    engine.run("start", "-a", "c")
    assert sorted(engine.out("diff", "c").splitlines()) == ["A /root/f", "C /root"]
    engine.run("cp", "c:/root/f", f"{engine.base}/f")
    assert (engine.base / "f").read_text() == "once\nonce\n"


def test_restart_policy(engine: Engine, busybox: str) -> None:
    name = engine.out("run", "-d", "--restart", "on-failure:2", busybox, "sh", "-c", "echo try; exit 3")
    assert engine.out("wait", name) == "3"
    for _ in range(200):
        if engine.out("inspect", "-f", "{{.RestartCount}} {{.State.Status}}", name) == "2 exited":
            break
        time.sleep(0.05)
    assert engine.out("logs", name) == "try\ntry\ntry"


def test_terminal(engine: Engine, busybox: str) -> None:
    done = subprocess.run(
        ["script", "-qec", f"{WHARFIE} run --rm -it {busybox} sh -c 'tty; stty size; echo $TERM; test -t 0 && test -t 1 && echo yes'", "/dev/null"],
        env={**engine.env(), "TERM": "xterm"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "/dev/pts/0" in done.stdout
    assert "xterm" in done.stdout
    assert "yes" in done.stdout


def test_rm_leaves_nothing(engine: Engine, busybox: str) -> None:
    engine.run("run", "--rm", "-v", "/anon", busybox, "true")
    assert engine.out("ps", "-aq") == ""
    assert engine.out("volume", "ls", "-q") == ""


def test_debian_bash(engine: Engine, debian: str) -> None:
    out = engine.out(
        "run", "--rm", debian, "bash", "-c", "cat /etc/debian_version; dpkg -l | grep -c ^ii; perl -e 'print 6*7'"
    )
    assert out.startswith("12.")
    assert out.endswith("42")
    engine.run("rmi", debian)


def test_unread_stdin_does_not_fail_the_client(engine: Engine, busybox: str) -> None:
    for program in (WHARFIE, "docker"):
        done = engine.run(
            "run", "-i", "--rm", "--network", "none", busybox, "echo", "done", program=program, stdin=bytes(3_000_000)
        )
        assert done.stdout == b"done\n"


@pytest.mark.parametrize("runtime", ["runc", "crun", "/usr/bin/crun", str(BIN / "wharfie-oci")])
def test_runtimes_of_this_host_need_no_configuration(engine: Engine, busybox: str, runtime: str) -> None:
    settle_cgroups()
    assert sh(engine, busybox, "echo by another", "--network", "none", "--runtime", runtime) == "by another"
    assert (
        sh(
            engine, busybox, "cat /proc/self/uid_map", "--network", "none", "--runtime", runtime, "--userns", "host"
        ).split()[1]
        == "0"
    )


def test_containerds_runc_shim(engine: Engine, busybox: str) -> None:
    flags = ("--network", "none", "--runtime", "io.containerd.runc.v2")
    assert sh(engine, busybox, "echo by shim", *flags, "--userns", "host") == "by shim"
    done = engine.run("run", "--rm", *flags, busybox, "true", check=False)
    assert done.returncode == 125
    assert b"--userns=host" in done.stderr


def test_unknown_runtime(engine: Engine, busybox: str) -> None:
    done = engine.run("run", "--rm", "--runtime", "nosuch", busybox, "true", check=False)
    assert done.returncode == 125
    assert b"nosuch" in done.stderr
    assert b"runc" in done.stderr
