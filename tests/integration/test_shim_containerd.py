# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PT018
"""Debian's containerd drives our shim: run, exec, stdio, terminal, kill, metrics, events, a killed shim."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

import pytest

from harness import images, leaks

BIN = Path(__file__).resolve().parents[2] / ".venv/bin"
RUNTIME = "io.containerd.wharfie.v1"
IMAGE = "localhost/busybox:latest"

pytestmark = [pytest.mark.root, pytest.mark.peer]


def oci_archive(path: Path) -> None:
    image = images.busybox()
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": image.digest,
                "size": len(image.manifest),
                "annotations": {"io.containerd.image.name": IMAGE},
            }
        ],
    }
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    files |= {f"blobs/sha256/{images.digest(b)[7:]}": b for b in (*image.blobs, image.config_blob, image.manifest)}
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


class Containerd:
    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="wh-ctd-", dir="/var/tmp"))
        (self.base / "bin").mkdir()
        (self.base / "bin/containerd-shim-wharfie-v1").symlink_to(BIN / "containerd-shim-wharfie-v1")
        self.socket = self.base / "c.sock"
        config = self.base / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{self.base}/root"\nstate = "{self.base}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{self.socket}"\n'
        )
        self.log = (self.base / "log").open("wb")
        self.process = subprocess.Popen(
            ["containerd", "--config", str(config)],
            stdout=self.log, stderr=self.log,
            env={**os.environ, "PATH": f"{self.base}/bin:{os.environ['PATH']}"},
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while self.ctr("version", check=False).returncode:
            assert time.monotonic() < deadline, (self.base / "log").read_text()
            time.sleep(0.05)
        oci_archive(self.base / "image.tar")
        self.ctr("image", "import", str(self.base / "image.tar"))

    def ctr(self, *args: str, check: bool = True, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            ["ctr", "-a", str(self.socket), *args],
            input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True, timeout=30,
        )  # fmt: skip
        assert not check or done.returncode == 0, (args, done.stderr.decode(), (self.base / "log").read_text()[-2000:])
        return done

    def run(self, container_id: str, *command: str, flags: tuple[str, ...] = ("--rm",), **kw):
        return self.ctr("run", *flags, "--runtime", RUNTIME, IMAGE, container_id, *command, **kw)

    def status(self, container_id: str) -> str:
        for line in self.ctr("task", "ls").stdout.decode().splitlines():
            if line.split()[0] == container_id:
                return line.split()[2]
        return ""

    def wait_status(self, container_id: str, status: str) -> None:
        deadline = time.monotonic() + 10
        while (now := self.status(container_id)) != status:
            assert time.monotonic() < deadline, f"{container_id} is {now!r}, not {status!r}"
            time.sleep(0.03)

    def remove(self, container_id: str) -> None:
        self.ctr("task", "rm", "-f", container_id, check=False)
        self.ctr("c", "rm", container_id)

    def shims(self) -> list[int]:
        """Our shims, whose command line ends in `start`."""
        return [pid for pid, line in leaks.processes_with(str(self.socket)) if "wharfie-v1" in line]

    def close(self) -> None:
        left = leaks.wait_until_gone(self.shims)
        mounts = leaks.wait_until_gone(lambda: leaks.mounts_below(str(self.base)))
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
        for pid in self.shims():
            os.kill(pid, signal.SIGKILL)
        said = (self.base / "log").read_text()
        shutil.rmtree(self.base)
        assert not left and not mounts, (left, mounts)
        assert "Traceback" not in said, said


@pytest.fixture(scope="module")
def containerd():
    containerd = Containerd()
    yield containerd
    containerd.close()


@pytest.fixture
def running(containerd, request):
    """A container that sleeps; the test's name is its id."""
    name = request.node.name.replace("test_", "c-").replace("_", "-")[:40]
    containerd.run(name, "sleep", "1000", flags=("-d",))
    yield name
    containerd.remove(name)


def test_run(containerd):
    done = containerd.run("r1", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")


def test_stdin_reaches_it_and_ends(containerd):
    data = b"0123456789abcdef" * 100_000
    assert containerd.run("in1", "cat", stdin=data).stdout == data


def test_much_output_loses_nothing(containerd):
    want = b"".join(b"%d\n" % i for i in range(1, 400_001))
    assert containerd.run("big1", "seq", "400000").stdout == want


def test_missing_program_is_said(containerd):
    done = containerd.run("no1", "/no/such/program", check=False)
    assert done.returncode == 1
    assert b"/no/such/program" in done.stderr and b"not found" in done.stderr


def test_exec(containerd, running):
    done = containerd.ctr(
        "task", "exec", "--exec-id", "e1", running, "sh", "-c", "cat; exit 4", check=False, stdin=b"hi"
    )
    assert (done.returncode, done.stdout) == (4, b"hi")
    done = containerd.ctr("task", "exec", "--exec-id", "e1", running, "no-such", check=False)
    assert done.returncode == 1 and b"no-such" in done.stderr
    assert containerd.ctr("task", "exec", "--exec-id", "e1", running, "echo", "again").stdout == b"again\n"


def test_terminal(containerd):
    """`ctr run -t` behind a pty of ours: sizes travel, input is echoed, the exit code comes back."""
    pid, master = pty.fork()
    if pid == 0:
        os.execvp("ctr", ["ctr", "-a", str(containerd.socket), "run", "--rm", "-t", "--runtime", RUNTIME, IMAGE, "tty1",
                          "sh", "-c", "tty; read x; echo got $x; exit 5"])  # fmt: skip
    got = b""
    while b"/dev/pts/0" not in got:
        got += os.read(master, 4096)
    os.write(master, b"word\n")
    try:
        while data := os.read(master, 4096):
            got += data
    except OSError:
        pass  # EIO: ctr is gone
    assert b"got word" in got
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(master)


def test_pause_resume_kill(containerd, running):
    containerd.ctr("task", "pause", running)
    assert containerd.status(running) == "PAUSED"
    containerd.ctr("task", "resume", running)
    assert containerd.status(running) == "RUNNING"
    containerd.ctr("task", "kill", "-s", "KILL", running)
    containerd.wait_status(running, "STOPPED")
    assert containerd.ctr("task", "rm", running, check=False).returncode in (0, 137)


def test_metrics_and_ps(containerd, running):
    metrics = dict(
        line.split(None, 1) for line in containerd.ctr("task", "metrics", running).stdout.decode().splitlines()[3:]
    )
    assert metrics["pids.current"].strip() == "1"
    assert int(metrics["memory.usage_in_bytes"]) > 0
    assert int(metrics["cpuacct.usage"]) > 0
    assert len(containerd.ctr("task", "ps", running).stdout.splitlines()) == 2


def test_log_uris(containerd):
    logger = containerd.base / "logger"
    logger.write_text(
        '#!/bin/sh\nexec 5>&-\n{ echo "$CONTAINER_NAMESPACE $CONTAINER_ID"; cat <&3; } >$1.part\nmv $1.part $1\n'
    )
    logger.chmod(0o755)
    for kind, uri in (("file", "file://{}"), ("binary", f"binary://{logger}?{{}}")):
        out = containerd.base / f"{kind}.txt"
        containerd.run(f"log-{kind}", "echo", "kept", flags=("-d", "--log-uri", uri.format(out)))
        containerd.wait_status(f"log-{kind}", "STOPPED")
        deadline = time.monotonic() + 5
        while not out.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert out.read_text() == ("default log-binary\n" if kind == "binary" else "") + "kept\n"
        containerd.remove(f"log-{kind}")


def test_events(containerd):
    listener = subprocess.Popen(["ctr", "-a", str(containerd.socket), "events"], stdout=subprocess.PIPE)
    time.sleep(0.3)
    containerd.run("ev1", "true")
    topics = []
    for line in listener.stdout:
        topics.append(line.split()[5].decode())
        if topics[-1] == "/containers/delete":
            break
    listener.kill()
    listener.wait()
    listener.stdout.close()
    assert [t for t in topics if t.startswith("/tasks/")] == [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
    ]


def test_killed_shim(containerd):
    """containerd calls our `delete`: the container is killed through its cgroup and nothing stays mounted."""
    before = set(containerd.shims())
    containerd.run("k1", "sleep", "1000", flags=("-d",))
    pid = next(
        int(line.split()[1])
        for line in containerd.ctr("task", "ls").stdout.decode().splitlines()[1:]
        if line.startswith("k1 ")
    )
    shim = (set(containerd.shims()) - before).pop()
    os.kill(shim, signal.SIGKILL)
    assert not leaks.wait_until_gone(lambda: [pid] if Path(f"/proc/{pid}").exists() else [])
    containerd.wait_status("k1", "")
    containerd.ctr("c", "rm", "k1")


def test_containerd_restarts_and_finds_its_task(containerd, running):
    """Events published meanwhile wait in the shim."""
    containerd.process.kill()
    containerd.process.wait()
    containerd.process = subprocess.Popen(
        containerd.process.args, stdout=containerd.log, stderr=containerd.log,
        env={**os.environ, "PATH": f"{containerd.base}/bin:{os.environ['PATH']}"},
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while containerd.ctr("version", check=False).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    containerd.wait_status(running, "RUNNING")
    assert containerd.ctr("task", "exec", "--exec-id", "e1", running, "echo", "still here").stdout == b"still here\n"
