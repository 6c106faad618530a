# SPDX-License-Identifier: Apache-2.0
"""Engines to drive: Debian's dockerd and our own, each with roots of its own, the same image in both."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from harness import leaks
from harness.engine import WHARFIE, Engine

IMAGE = "busybox"


class Host:
    """An engine's address and the two command lines pointed at it."""

    def __init__(self, kind: str, address: str, home: Path) -> None:
        self.kind = kind
        self.address = address
        self.home = home

    def env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "DOCKER_HOST": self.address, "WHARFIE_HOST": self.address, "TZ": "UTC",
        }  # fmt: skip

    def command(self, program: str) -> str:
        return WHARFIE if program == "wharfie" else program

    def run(
        self, *args: str, program: str = "wharfie", stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self.command(program), *args],
            env=self.env(),
            input=b"" if stdin is None else stdin,
            capture_output=True,
            timeout=60,
        )

    def out(self, *args: str, program: str = "wharfie") -> str:
        done = self.run(*args, program=program)
        assert done.returncode == 0, (args, done.stdout[-500:], done.stderr[-500:])
        return done.stdout.decode().rstrip("\n")

    def remove_containers(self) -> None:
        if ids := self.out("ps", "-aq", "--no-trunc").split():
            self.run("rm", "-fv", *ids)


@pytest.fixture(scope="session")
def _dockerd(busybox: str) -> Iterator[Host]:
    need("dockerd", "docker")
    base = Path(tempfile.mkdtemp(prefix="wh-dockerd-", dir="/var/tmp"))
    socket = base / "docker.sock"
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(
            ["dockerd", "--data-root", base / "data", "--exec-root", base / "exec", "-H", f"unix://{socket}", "--pidfile", base / "pid",
             "--bridge=none", "--iptables=false"],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    host = Host("dockerd", f"unix://{socket}", base)
    try:
        deadline = time.monotonic() + 30
        while host.run("version").returncode:
            assert process.poll() is None, (base / "log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        host.out("pull", busybox)
        host.out("tag", busybox, IMAGE)
        yield host
        host.remove_containers()
    finally:
        process.terminate()
        process.wait(20)
        for mount in reversed(leaks.mounts_below(str(base))):
            subprocess.run(["umount", "-l", mount], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def _wharfied(busybox: str) -> Iterator[Host]:
    engine = Engine()
    try:
        engine.run("pull", busybox)
        engine.run("tag", busybox, IMAGE)
        yield Host("wharfied", engine.host, engine.base)
        engine.close()
    finally:
        engine.destroy()


@pytest.fixture(params=["dockerd", "wharfied"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Each engine in turn; the containers of a test go with it."""
    h: Host = request.getfixturevalue(f"_{request.param}")
    yield h
    h.remove_containers()


@pytest.fixture
def dockerd(_dockerd: Host) -> Iterator[Host]:
    yield _dockerd
    _dockerd.remove_containers()
