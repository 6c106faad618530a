# SPDX-License-Identifier: Apache-2.0
"""`wharfied` itself: flags, configuration, service manager, addresses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import leaks
from harness.engine import WHARFIED, UnixConnection

pytestmark = [pytest.mark.root]


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wh-", dir="/var/tmp") as d:
        yield Path(d)
        assert not leaks.mounts_below(d)


def test_service_manager_sockets_and_readiness(base: Path) -> None:
    """sd_listen_fds(3) and sd_notify(3), as systemd does it: descriptor 3, READY=1 once requests are answered."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(base / "given.sock"))
    listener.listen()
    news = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    news.bind(str(base / "notify"))
    news.settimeout(20)
    script = "import os,sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[2], sys.argv[2:])"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(listener.fileno()), WHARFIED, "--root", f"{base}/root", "--state", f"{base}/run"],
        pass_fds=[listener.fileno()],
        env={**os.environ, "LISTEN_FDS": "1", "NOTIFY_SOCKET": str(base / "notify")},
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert b"READY=1" in news.recv(1000)
        connection = UnixConnection(str(base / "given.sock"))
        connection.request("GET", "/_ping")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"OK")
        assert answer.headers["Api-Version"]
        connection.close()
        assert not (base / "run/wharfie.sock").exists(), "with sockets given, no other is made"
        process.send_signal(signal.SIGTERM)
        assert b"STOPPING=1" in news.recv(1000)
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=20)
        listener.close()
        news.close()
    assert process.returncode == 0, errors


@pytest.mark.parametrize(
    ("args", "config", "says"),
    [
        (["--rooot", "x"], "", ["--rooot", "--root"]),
        (["--log-level", "loud"], "", ["loud", "debug"]),
        ([], "snapshoter = 'erofs'\n", ["c.toml:1", "snapshoter", "snapshotter"]),
        ([], "stop_timeout = 'x'\n", ["c.toml:1", "stop_timeout"]),
        ([], "= broken\n", ["c.toml"]),
        (["-H", "carrier://pigeon"], "", ["carrier://pigeon", "unix://"]),
        (["-H", "tcp://127.0.0.1:notaport"], "", ["notaport"]),
        (["-H", f"unix:///var/tmp/{'x' * 120}"], "", ["107 bytes"]),
        (["serve"], "", ["serve"]),
    ],
)
def test_bad_starts_are_explained(base: Path, args: list[str], config: str, says: list[str]) -> None:
    (base / "c.toml").write_text(config)
    done = subprocess.run(
        [WHARFIED, "--root", f"{base}/root", "--state", f"{base}/run", "--config", f"{base}/c.toml", *args],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for word in says:
        assert word in done.stderr, done.stderr


def test_help_version_default_and_validate(base: Path) -> None:
    def out(*args: str) -> str:
        return subprocess.run([WHARFIED, *args], capture_output=True, text=True, timeout=20, check=True).stdout

    assert "--config FILE" in out("--help")
    assert out("--version").startswith("wharfied version ")
    text = out("config", "default")
    (base / "c.toml").write_text(text)
    assert out("--config", f"{base}/c.toml", "--validate") == "configuration OK\n"
    assert not (base / "root").exists()
