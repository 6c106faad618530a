# SPDX-License-Identifier: Apache-2.0
"""Checkpoint and restore with a real criu: processes that count go on counting, in containers made anew."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import need
from harness.runtime import BASE, OCI, Rig, busybox_layer, open_rig
from wharfie.errdefs import PermissionDenied, Unsupported
from wharfie.oci.seccomp import default_profile
from wharfie.runtime import Stdio
from wharfie.runtime.linux import checkpoint
from wharfie.runtime.linux.restore import RestoredEngine
from wharfie.runtime.linux.template import template
from wharfie.spec import runtime as s

pytestmark = [pytest.mark.root]
COUNT = "i=0; while :; do i=$((i+1)); echo $i >%s; sleep 0.02; done"


@pytest.fixture(scope="module", autouse=True)
def _criu() -> None:
    need("criu", "busybox")
    done = subprocess.run(["criu", "check"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"criu does not work on this kernel: {done.stderr.splitlines()[-1]}")


@pytest.fixture(scope="module")
def layer() -> Iterator[Path]:
    with busybox_layer() as root:
        yield root


@pytest.fixture(params=["linux", "linux-userns"])
def rig(request: pytest.FixtureRequest, tmp_path: Path, layer: Path) -> Iterator[Rig]:
    with open_rig(request.param, tmp_path, layer) as r:
        yield r


@pytest.fixture
def bundle(tmp_path: Path, layer: Path) -> Path:
    (tmp_path / "rootfs").symlink_to(layer)
    (tmp_path / "data").mkdir()
    return tmp_path


class Cli:
    def __init__(self, bundle: Path) -> None:
        self.bundle, self.id = bundle, f"cr-{os.getpid()}-{os.urandom(3).hex()}"

    def run(self, *args: str, criu: str = "") -> tuple[int, str]:
        with (self.bundle / "out").open("w+b") as out:
            command = [OCI, "--root", f"{self.bundle}/state", *(["--criu", criu] if criu else []), *args]
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False).returncode
        return code, (self.bundle / "out").read_text()

    def good(self, *args: str) -> str:
        code, text = self.run(*args)
        assert code == 0, text
        return text

    def state(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.good("state", self.id))
        return found


@pytest.fixture
def cli(bundle: Path) -> Iterator[Cli]:
    c = Cli(bundle)
    yield c
    c.run("delete", "--force", c.id)
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{c.id}"))
    assert str(bundle) not in Path("/proc/self/mountinfo").read_text()


def write(bundle: Path, script: str, change: Callable[[s.Spec], None] | None = None) -> None:
    spec = template()
    assert spec.process
    assert spec.root
    spec.process.args, spec.process.env, spec.process.terminal = ["sh", "-c", script], ["PATH=/bin"], False
    spec.mounts.append(s.Mount("/data", "bind", f"{bundle}/data", ["rbind", "rw"]))
    if change is not None:
        change(spec)
    (bundle / "config.json").write_bytes(s.encode_spec(spec))


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


def number(path: Path) -> int:
    while True:
        try:
            return int(path.read_text())
        except (FileNotFoundError, ValueError):
            time.sleep(0.005)


def goes_on(path: Path, beyond: int) -> None:
    until(lambda: number(path) > beyond)


def test_counts_on(cli: Cli, bundle: Path) -> None:
    """It ends with the checkpoint, goes on from there, and lives in what config.json says."""

    def change(spec: s.Spec) -> None:
        assert spec.linux
        spec.linux.seccomp = default_profile("amd64", frozenset())
        assert spec.linux.resources
        spec.linux.resources.pids = s.Pids(40)

    write(bundle, COUNT % "/data/n", change)
    cli.good("run", "--bundle", str(bundle), "--detach", cli.id)
    counter = bundle / "data/n"
    goes_on(counter, 5)
    images = bundle / "images"
    cli.good("checkpoint", "--image-path", str(images), cli.id)
    assert images.stat().st_mode & 0o777 == 0o700
    at = number(counter)
    assert "does not exist" in cli.run("state", cli.id)[1]
    counter.unlink()
    pid_file = f"{bundle}/pid"
    cli.good(
        "restore", "--bundle", str(bundle), "--image-path", str(images), "--work-path", f"{bundle}/work",
        "--detach", "--pid-file", pid_file, cli.id,
    )  # fmt: skip
    assert at <= number(counter) < at + 200, "it started anew"
    goes_on(counter, number(counter) + 5)
    state = cli.state()
    assert state["status"] == "running"
    assert state["pid"] == int(Path(pid_file).read_text())
    inside = cli.good(
        "exec", cli.id, "sh", "-c", "hostname; cat /proc/1/cgroup /proc/1/status; ls /proc/acpi /sys/firmware"
    )
    assert inside.startswith("wharfie\n")
    assert "NoNewPrivs:\t1" in inside
    assert "Seccomp:\t2" in inside
    assert cli.id not in inside, "the cgroup namespace is another"
    assert json.loads(cli.good("events", "--stats", cli.id))["data"]["pids"]["limit"] == 40
    cli.good("pause", cli.id)
    cli.good("resume", cli.id)
    # What was restored can be checkpointed again.
    cli.good("checkpoint", "--image-path", f"{bundle}/again", "--leave-running", cli.id)
    goes_on(counter, number(counter) + 5)
    assert cli.state()["status"] == "running"
    cli.good("kill", cli.id, "KILL")
    until(lambda: cli.state()["status"] == "stopped")


def test_streams(cli: Cli, bundle: Path) -> None:
    """In the foreground: the restorer's own streams, signals and exit code."""
    write(bundle, "trap 'echo bye; exit 7' TERM; " + COUNT % "/data/n")
    cli.good("run", "--bundle", str(bundle), "--detach", cli.id)
    goes_on(bundle / "data/n", 5)
    cli.good("checkpoint", "--image-path", f"{bundle}/images", cli.id)
    at = number(bundle / "data/n")
    command = [OCI, "--root", f"{bundle}/state", "restore", "--bundle", str(bundle), "--image-path", f"{bundle}/images"]
    done = subprocess.run([*command, cli.id], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert "1 was a file and cannot become a pipe" in done.stderr
    output = bundle / "output"
    with (
        output.open("wb") as f,
        subprocess.Popen([*command, cli.id], stdin=subprocess.DEVNULL, stdout=f, stderr=f) as p,
    ):
        goes_on(bundle / "data/n", at + 5)
        p.terminate()
        assert p.wait() == 7
    assert output.read_bytes() == b"bye\n"


def test_terminal(cli: Cli, bundle: Path) -> None:
    """The new console comes from the console socket, and the shell at it answers."""

    def change(spec: s.Spec) -> None:
        assert spec.process
        spec.process.terminal = True

    write(bundle, "while read line; do echo got $line; done", change)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(f"{bundle}/console")
    sock.listen(1)
    console = ["--console-socket", f"{bundle}/console"]

    def master() -> int:
        connection, _ = sock.accept()
        with connection:
            return socket.recv_fds(connection, 100, 1)[1][0]

    def talk(fd: int, word: bytes) -> None:
        os.write(fd, word + b"\n")
        seen = b""
        while b"got " + word not in seen:
            seen += os.read(fd, 1000)

    try:
        cli.good("run", "--bundle", str(bundle), "--detach", *console, cli.id)
        fd = master()
        talk(fd, b"one")
        cli.good("checkpoint", "--image-path", f"{bundle}/images", cli.id)
        os.close(fd)
        cli.good("restore", "--bundle", str(bundle), "--image-path", f"{bundle}/images", "--detach", *console, cli.id)
        fd = master()
        talk(fd, b"two")
        os.close(fd)
    finally:
        sock.close()


def test_overlay_and_joined_network(rig: Rig, tmp_path: Path) -> None:
    """As the engine runs images: a detached overlay for a root, somebody else's network namespace, pipes."""
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up; exec sleep 100"])
    try:
        until(lambda: b"sleep" in Path(f"/proc/{holder.pid}/cmdline").read_bytes()[:6])
        spec = rig.spec("sh", "-c", "i=0; while read l; do i=$((i+1)); echo $i >/n; echo $i $l; done")
        assert spec.linux
        network = next(n for n in spec.linux.namespaces if n.type == "network")
        network.path = f"/proc/{holder.pid}/ns/net"
        first = Piped(rig, spec)
        first.say(b"a\n", b"1 a\n")
        lines = Path(f"/proc/{first.started.pid}/mountinfo").read_text().splitlines()
        before = {line.split()[4]: set(line.split()[5].split(",")) for line in lines}
        request = checkpoint.Request(f"{tmp_path}/images")
        checkpoint.dump(rig.engine, request)
        assert rig.reap(first.started) == -9
        first.close()
        rig.engine.delete(force=True)

        rig.engine = RestoredEngine(request)
        second = Piped(rig, spec)
        second.say(b"b\n", b"2 b\n")
        assert (tmp_path / "upper/n").read_text() == "2\n"
        assert os.readlink(f"/proc/{second.started.pid}/ns/net") == os.readlink(f"/proc/{holder.pid}/ns/net")
        assert rig.exec("cat", "/n") == (0, "2\n")
        uid_map = Path(f"/proc/{second.started.pid}/uid_map").read_text().split()
        assert uid_map == (["0", str(BASE), "65536"] if rig.userns else ["0", "0", "4294967295"])
        lines = Path(f"/proc/{second.started.pid}/mountinfo").read_text().splitlines()
        after = {line.split()[4]: set(line.split()[5].split(",")) for line in lines}
        assert after == before, "a mount is missing, or weaker than it was"
        assert rig.exec("sh", "-c", "echo x >/dev/null; stat -c %u /n /dev/null") == (0, "0\n0\n")
        os.close(second.stdin)
        assert rig.reap(second.started) == 0, "end of file came through the new pipe"
        second.stdin = -1
        second.close()
    finally:
        holder.kill()
        holder.wait()


def test_exec_and_init(rig: Rig, tmp_path: Path) -> None:
    """A process that exec started ends with the container, reaped on the way; a container with --init is refused."""
    started = rig.sleeping()
    extra = rig.engine.exec("e1", s.Process(args=["sleep", "100"], env=["PATH=/bin"], cwd="/"), Stdio())
    reaped: dict[int, int] = {}

    def reap() -> None:
        pid, status = os.waitpid(-1, os.WNOHANG)
        reaped[pid] = os.waitstatus_to_exitcode(status)

    checkpoint.dump(rig.engine, checkpoint.Request(f"{tmp_path}/images"), reap=reap)
    assert reaped[extra.pid] == -9
    if started.pid not in reaped:
        assert os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1]) == -9
    os.close(extra.pidfd)
    os.close(started.pidfd)
    rig.engine.delete(force=True)
    rig.engine = rig.make()
    spec = rig.spec("sleep", "100")
    spec.annotations["io.wharfie.init"] = "1"
    started = rig.create(spec)
    rig.engine.start()
    with pytest.raises(Unsupported, match="its init is a program without a file"):
        checkpoint.dump(rig.engine, checkpoint.Request(f"{tmp_path}/other"))
    assert not (tmp_path / "other").exists()
    rig.end(started)


class Piped:
    """A container with pipes, created and started, or restored."""

    def __init__(self, rig: Rig, spec: s.Spec) -> None:
        inside_r, self.stdin = os.pipe()
        self.stdout, inside_w = os.pipe()
        stdio = Stdio(inside_r, inside_w, inside_w)
        self.started = rig.create(spec, stdio)
        rig.engine.start()
        os.close(inside_r)
        os.close(inside_w)

    def say(self, text: bytes, answer: bytes) -> None:
        os.write(self.stdin, text)
        assert os.read(self.stdout, 100) == answer

    def close(self) -> None:
        for fd in (self.stdin, self.stdout):
            if fd >= 0:
                os.close(fd)


def test_directories_of_others(rig: Rig, tmp_path: Path) -> None:
    """A checkpoint is trusted like root: no links, nothing that others may write, no log into a file of the host."""
    started = rig.sleeping()
    victim = tmp_path / "victim"
    victim.write_text("precious")

    def refused(name: str, word: str) -> None:
        with pytest.raises(PermissionDenied, match=word):
            checkpoint.dump(rig.engine, checkpoint.Request(f"{tmp_path}/{name}"))
        with pytest.raises(PermissionDenied, match=word):
            checkpoint.dump(rig.engine, checkpoint.Request(f"{tmp_path}/fine", work_path=f"{tmp_path}/{name}"))
        with pytest.raises(PermissionDenied, match=word):
            request = checkpoint.Request(f"{tmp_path}/{name}")
            RestoredEngine(request).create("x", str(tmp_path), rig.spec("true"), [], Stdio())

    for log in ("dump.log", "restore.log", "descriptors.json", "pages-1.img"):
        d = tmp_path / f"link-{log}"
        d.mkdir(0o700)
        (d / log).symlink_to(victim)
        refused(d.name, "no plain file")
        (d / log).unlink()
        (d / log).hardlink_to(victim)
        refused(d.name, "no plain file")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    refused("open", "others may write")
    (tmp_path / "foreign").mkdir(0o700)
    os.chown(tmp_path / "foreign", 1000, 1000)
    refused("foreign", "others may write")
    (tmp_path / "there").symlink_to("fine")
    with pytest.raises(Exception, match="open checkpoint directory"):
        checkpoint.dump(rig.engine, checkpoint.Request(f"{tmp_path}/there"))
    assert victim.read_text() == "precious"
    rig.end(started)


def test_hostile_streams(tmp_path: Path) -> None:
    """`descriptors.json` names pipes and files by number; names of anything else get nothing."""
    from wharfie.runtime.linux.restore import _streams

    names = ["/etc/shadow", "extRootNetNS", "pipe:[12]", "file[1:2]"]
    (tmp_path / "descriptors.json").write_text(json.dumps(names))
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert _streams(fd) == ["", "", "pipe:[12]"]
    finally:
        os.close(fd)


def test_refusals(cli: Cli, bundle: Path, rig: Rig) -> None:
    write(bundle, "sleep 100")
    cli.good("create", "--bundle", str(bundle), cli.id)
    assert "it is created, not running" in cli.run("checkpoint", cli.id)[1]
    cli.good("start", cli.id)
    assert "not installed" in cli.run("checkpoint", cli.id, criu="no-such-criu")[1]
    assert "--pre-dump" in cli.run("checkpoint", "--pre-dump", cli.id)[1]
    assert "soft, full, strict" in cli.run("checkpoint", "--manage-cgroups-mode", "x", cli.id)[1]
    broken = bundle / "broken"
    broken.mkdir(0o700)
    code, text = cli.run("restore", "--bundle", str(bundle), "--image-path", str(broken), cli.id)
    assert code == 1
    assert "id is in use" in text
    code, text = cli.run("restore", "--bundle", str(bundle), "--image-path", str(broken), f"{cli.id}-2")
    assert "no descriptors.json" in text
    (broken / "descriptors.json").write_text('["","",""]')
    code, text = cli.run("restore", "--bundle", str(bundle), "--image-path", str(broken), f"{cli.id}-2")
    assert code == 1
    assert "criu 4" in text or "criu 3" in text
    assert "empty-image" in text
    assert not (bundle / "state" / f"{cli.id}-2").exists()
    assert cli.state()["status"] == "running"


def test_containerd() -> None:
    """containerd copies a task through our shim: paused, checkpointed into an image, resumed, restored beside it."""
    need("containerd", "ctr")
    from integration.test_shim_containerd import IMAGE, RUNTIME, Containerd

    peer = Containerd()

    def count(container_id: str) -> int:
        done = peer.ctr("task", "exec", "--exec-id", os.urandom(4).hex(), container_id, "cat", "/n", check=False)
        return int(done.stdout or 0)

    try:
        peer.ctr("run", "-d", "--runtime", RUNTIME, IMAGE, "first", "sh", "-c", COUNT % "/n")
        until(lambda: count("first") > 5)
        peer.ctr("c", "checkpoint", "--rw", "--task", "--image", "first", "localhost/checkpoint:1")
        at = count("first")
        until(lambda: count("first") > at)
        peer.ctr("c", "restore", "--rw", "--live", "second", "localhost/checkpoint:1")
        assert count("second") > 5
        at = count("second")
        until(lambda: count("second") > at)
    finally:
        for name in ("first", "second"):
            peer.remove(name)
        peer.close()
