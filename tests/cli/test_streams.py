# SPDX-License-Identifier: Apache-2.0
"""Much data through the command line costs it little CPU time, and none of it is lost."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from cli.conftest import Host
from harness.engine import WHARFIE

LINE = "this is a line of sixty-four characters, give or take a few"


def cpu_of(host: Host, words: list[str], target: Path) -> float:
    """User and system seconds of one command that writes to a file."""
    with target.open("wb") as f:
        process = subprocess.Popen([WHARFIE, *words], env=host.env(), stdin=subprocess.DEVNULL, stdout=f)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def expected(megabytes: int) -> str:
    line = f"{LINE}\n".encode()
    return hashlib.sha256((line * (megabytes * 10**6 // len(line) + 1))[: megabytes * 10**6]).hexdigest()


@pytest.mark.slow
def test_run_and_logs(host: Host, tmp_path: Path) -> None:
    """Budgets: 256 MB through `run` below 1 s of our CPU time, 200 MB of `logs` below 0.5 s (dockerd frames each line)."""
    megabytes = 64 if host.kind == "wharfied" else 8  # dockerd reads its log at 6 MB a second
    script = f"yes '{LINE}' | head -c {megabytes}000000"
    out = tmp_path / "out"
    used = cpu_of(host, ["run", "--name", "much", "--network", "none", "busybox", "sh", "-c", script], out)
    assert hashlib.sha256(out.read_bytes()).hexdigest() == expected(megabytes)
    assert used < 1.0 * megabytes / 256 + 0.1
    used = cpu_of(host, ["logs", "much"], out)
    assert hashlib.sha256(out.read_bytes()).hexdigest() == expected(megabytes)
    if host.kind == "wharfied":
        assert used < 0.5 * megabytes / 200 + 0.1


def test_stderr_is_kept_apart(host: Host) -> None:
    script = "for i in $(seq 500); do echo out $i; echo err $i >&2; done"
    done = host.run("run", "--name", "two", "--network", "none", "busybox", "sh", "-c", script)
    assert done.stdout.decode().splitlines() == [f"out {i}" for i in range(1, 501)]
    assert done.stderr.decode().splitlines() == [f"err {i}" for i in range(1, 501)]
    logs = host.run("logs", "two")
    assert (logs.stdout, logs.stderr) == (done.stdout, done.stderr)
    assert (
        host.run("logs", "--tail", "3", "two").stdout.decode().count("\n")
        + host.run("logs", "--tail", "3", "two").stderr.decode().count("\n")
        == 3
    )


def test_follow(host: Host) -> None:
    host.out("run", "-d", "--name", "fol", "--network", "none", "busybox", "sh", "-c", "echo a; sleep 0.5; echo b")
    assert host.out("logs", "-f", "fol") == "a\nb"


def test_a_closed_pipe_ends_us(host: Host) -> None:
    host.out("run", "-d", "--name", "pipe", "--network", "none", "busybox", "yes")
    with subprocess.Popen(
        [WHARFIE, "logs", "-f", "pipe"], env=host.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as p:
        assert p.stdout
        assert p.stderr
        assert p.stdout.read(4) == b"y\ny\n"
        p.stdout.close()
        assert p.stderr.read() == b""
        assert p.wait(20) != 0


def test_container_that_writes_without_reading(host: Host) -> None:
    """Both pipes full at once would deadlock a client that only writes or only reads."""
    data = b"x" * 3_000_000
    done = host.run(
        "run", "--rm", "-i", "--network", "none", "busybox", "sh", "-c", "head -c 3000000 /dev/zero; wc -c", stdin=data
    )
    assert (len(done.stdout), done.stdout[-8:]) == (3_000_008, b"3000000\n")


def test_archives(host: Host, tmp_path: Path) -> None:
    """save, load, export, import, cp: large bodies both ways, unchanged."""
    saved = tmp_path / "saved.tar"
    host.out("save", "-o", str(saved), "busybox")
    assert not list(tmp_path.glob("*.part"))
    assert "busybox" in host.out("load", "-i", str(saved))
    host.out("create", "--name", "box", "--network", "none", "busybox")
    exported = host.run("export", "box").stdout
    assert len(exported) > 1_000_000
    made = host.run("import", "-", "made:1", stdin=exported)
    assert made.stdout.startswith(b"sha256:")
    assert host.out("run", "--rm", "--network", "none", "made:1", "echo", "ok") == "ok"
    host.out("rmi", "made:1")


def test_cp(host: Host, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_bytes(os.urandom(3_000_000))
    (tree / "sub/link").symlink_to("file")
    os.link(tree / "sub/file", tree / "hard")
    (tree / "exe").write_text("#!/bin/sh\n")
    (tree / "exe").chmod(0o750)
    host.out("create", "--name", "box", "--network", "none", "busybox")
    host.out("cp", str(tree), "box:/tmp")
    host.out("cp", str(tree), "box:/tmp/renamed")
    host.out("cp", f"{tree}/.", "box:/var")
    back = tmp_path / "back"
    back.mkdir()
    for source in ("/tmp/tree", "/tmp/renamed", "/var/."):
        host.out("cp", f"box:{source}", str(back))
    for top in (back / "tree", back / "renamed", back):
        assert (top / "sub/file").read_bytes() == (tree / "sub/file").read_bytes()
        assert os.readlink(top / "sub/link") == "file"
        assert (top / "hard").stat().st_ino == (top / "sub/file").stat().st_ino
        assert (top / "exe").stat().st_mode & 0o777 == 0o750
    host.out("cp", "box:/var/exe", str(tmp_path / "single"))
    assert (tmp_path / "single").read_text() == "#!/bin/sh\n"
    assert b"exe" in host.run("cp", "box:/var/exe", "-").stdout[:100]
    for bad in (
        ("box:/nosuch", "."),
        ("/nosuch", "box:/"),
        ("box:/tmp", "box:/x"),
        ("a", "b"),
        ("box:/tmp", str(tmp_path / "single")),
    ):
        done = host.run("cp", *bad)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.startswith(b"wharfie: ")
