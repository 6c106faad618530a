# SPDX-License-Identifier: Apache-2.0
"""podman, dockerd and containerd run containers through wharfie-oci."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import need

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.slow]
OCI = str(Path(sys.executable).with_name("wharfie-oci"))
APPLETS = ("sh", "true", "sleep", "cat", "id", "echo", "ls", "tty", "stty", "grep")


def busybox_root(top: Path) -> Path:
    (top / "bin").mkdir(parents=True)
    for name in ("proc", "sys", "dev", "tmp", "etc"):
        (top / name).mkdir()
    shutil.copy("/bin/busybox", top / "bin/busybox")
    for name in APPLETS:
        (top / "bin" / name).symlink_to("busybox")
    (top / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")
    return top


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    need("busybox")
    top = Path(tempfile.mkdtemp(prefix="wharfie-peers-", dir="/var/tmp"))
    busybox_root(top / "rootfs")
    subprocess.run(["tar", "-C", str(top / "rootfs"), "-cf", str(top / "image.tar"), "."], check=True)
    yield top
    assert str(top) not in Path("/proc/self/mountinfo").read_text()
    shutil.rmtree(top)


def daemon(command: list[str], log: Path, ready: Callable[[], bool]) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    end = time.monotonic() + 30
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"{command[0]} does not come up: {log.read_text()[-2000:]}")
        time.sleep(0.05)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def podman(scratch: Path) -> Run:
    need("podman")
    limits = ("--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:4096")

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        words = list(args)
        if words[0] == "run":
            words[1:1] = [*limits, "--network", "none"]
        roots = ["--root", f"{scratch}/podman", "--runroot", f"{scratch}/podman-run", "--storage-driver", "vfs"]
        command = ["podman", *roots, "--cgroup-manager", "cgroupfs", "--runtime", OCI, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    return run


def test_podman_exit_codes(podman: Run, scratch: Path) -> None:
    root = ("--rootfs", f"{scratch}/rootfs")
    done = podman("run", "--rm", *root, "sh", "-c", "id -u; exit 3")
    assert (done.returncode, done.stdout) == (3, "0\n"), done.stderr
    assert podman("run", "--rm", *root, "no-such-program").returncode == 127
    assert podman("run", "--rm", *root, "/etc/passwd").returncode == 126


def test_podman_lifecycle(podman: Run, scratch: Path) -> None:
    done = podman("run", "-d", "--name", "life", "-m", "64m", "--rootfs", f"{scratch}/rootfs", "sleep", "60")
    assert done.returncode == 0, done.stderr
    try:
        limits = podman("exec", "life", "sh", "-c", "cat /proc/self/cgroup; exit 5")
        assert limits.returncode == 5
        assert podman("exec", "life", "nope").returncode == 127
        assert podman("exec", "-t", "life", "tty").stdout.strip() == "/dev/pts/0"
        assert podman("pause", "life").returncode == 0
        assert podman("exec", "life", "true").returncode != 0
        assert podman("unpause", "life").returncode == 0
        assert "64MB" in podman("stats", "--no-stream", "--format", "{{.MemUsage}}", "life").stdout.replace(
            "67.11", "64"
        )
    finally:
        assert podman("rm", "-f", "-t", "0", "life").returncode == 0


def test_podman_user_namespace(podman: Run, scratch: Path) -> None:
    done = podman(
        "run", "--rm", "--uidmap", "0:3000000:65536", "--gidmap", "0:3000000:65536", "--rootfs", f"{scratch}/rootfs",
        "cat", "/proc/self/uid_map",
    )  # fmt: skip
    assert done.stdout.split() == ["0", "3000000", "65536"], done.stderr


@pytest.fixture(scope="module")
def docker(scratch: Path) -> Iterator[Run]:
    need("dockerd", "docker")
    top = scratch / "docker"
    top.mkdir()
    socket = f"unix://{top}/sock"
    command = [
        "dockerd", "--data-root", f"{top}/data", "--exec-root", f"{top}/exec", "-H", socket, "--pidfile", f"{top}/pid",
        "--add-runtime", f"wharfie={OCI}", "--default-runtime", "wharfie", "--bridge", "none", "--iptables=false",
        "--storage-driver", "vfs",
    ]  # fmt: skip
    env = {**os.environ, "DOCKER_CONFIG": f"{top}/config"}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "-H", socket, *args], capture_output=True, text=True, check=False, timeout=60, env=env
        )

    process = daemon(command, top / "log", lambda: run("version").returncode == 0)
    try:
        assert run("import", f"{scratch}/image.tar", "box").returncode == 0
        yield run
    finally:
        stop(process)
        subprocess.run(["umount", f"{top}/exec/netns/default"], check=False)  # dockerd's own, it never takes it away


def test_docker(docker: Run) -> None:
    done = docker("run", "--rm", "--network", "none", "box", "sh", "-c", "grep Seccomp: /proc/self/status; exit 4")
    assert (done.returncode, done.stdout.split()) == (4, ["Seccomp:", "2"]), done.stderr
    assert docker("run", "--rm", "--network", "none", "box", "no-such-program").returncode == 127
    assert docker("run", "--rm", "--network", "none", "box", "/etc/passwd").returncode == 126


def test_docker_lifecycle(docker: Run) -> None:
    options = ("--network", "none", "--name", "life", "-u", "1000:1000", "--read-only", "--tmpfs", "/run", "--init")
    done = docker("run", "-d", *options[:-1], "-v", "/usr/share:/data:ro", "box", "sleep", "60")
    assert done.returncode == 0, done.stderr
    try:
        done = docker("exec", "life", "sh", "-c", "id -u; ls /data >/dev/null && echo x > /run/f && echo x > /etc/f")
        assert done.stdout == "1000\n"
        assert docker("exec", "-t", "life", "tty").stdout.strip() == "/dev/pts/0"
        assert docker("exec", "--privileged", "-u", "0", "life", "id", "-u").stdout == "0\n"
        assert docker("pause", "life").returncode == 0
        assert docker("unpause", "life").returncode == 0
        assert docker("update", "--memory", "64m", "--memory-swap", "64m", "life").returncode == 0
        assert "sleep" in docker("top", "life").stdout
        assert docker("kill", "life").returncode == 0
        assert docker("wait", "life").stdout == "137\n"
        assert docker("start", "life").returncode == 0
    finally:
        assert docker("rm", "-f", "life").returncode == 0


def test_docker_privileged(docker: Run) -> None:
    done = docker("run", "--rm", "--privileged", "--network", "host", "--pid", "host", "box", "ls", "/dev/null")
    assert (done.returncode, done.stdout) == (0, "/dev/null\n"), done.stderr


@pytest.fixture(scope="module")
def ctr(scratch: Path) -> Iterator[Run]:
    need("containerd", "ctr")
    top = scratch / "containerd"
    top.mkdir()
    (top / "config.toml").write_text(
        f'version = 2\nroot = "{top}/root"\nstate = "{top}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{top}/sock"\n'
    )

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ctr", "-a", f"{top}/sock", *args], capture_output=True, text=True, check=False, timeout=60
        )

    process = daemon(
        ["containerd", "--config", f"{top}/config.toml"], top / "log", lambda: run("version").returncode == 0
    )
    try:
        yield run
    finally:
        stop(process)


def test_containerd(ctr: Run, scratch: Path) -> None:
    runtime = ("--runtime", "io.containerd.runc.v2", "--runc-binary", OCI)
    done = ctr("run", "--rm", *runtime, "--rootfs", f"{scratch}/rootfs", "one", "/bin/sh", "-c", "id -u; exit 6")
    assert (done.returncode, done.stdout) == (6, "0\n"), done.stderr
    done = ctr(
        "run", "-d", *runtime, "--memory-limit", "67108864", "--rootfs", f"{scratch}/rootfs", "two", "/bin/sleep", "60"
    )
    assert done.returncode == 0, done.stderr
    try:
        assert ctr("task", "exec", "--exec-id", "e", "two", "/bin/sh", "-c", "exit 9").returncode == 9
        assert "RUNNING" in ctr("task", "ls").stdout
        assert ctr("task", "pause", "two").returncode == 0
        assert "PAUSED" in ctr("task", "ls").stdout
        assert ctr("task", "resume", "two").returncode == 0
        assert "memory" in ctr("task", "metrics", "two").stdout
        assert len(ctr("task", "ps", "two").stdout.splitlines()) == 2
    finally:
        ctr("task", "kill", "-s", "SIGKILL", "two")
        end = time.monotonic() + 5
        while "RUNNING" in ctr("task", "ls").stdout and time.monotonic() < end:
            time.sleep(0.02)
        assert ctr("task", "rm", "two").returncode in (0, 1)
        assert ctr("container", "rm", "two").returncode == 0
