# SPDX-License-Identifier: Apache-2.0
"""What only our own engine has: phases of a run, survival of its restart; and accounts against a registry that asks."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from harness import images
from harness.engine import WHARFIE, Engine
from harness.registry import Registry


@pytest.fixture(scope="module")
def engine(busybox: str) -> Iterator[Engine]:
    e = Engine()
    try:
        e.run("pull", busybox)
        e.run("tag", busybox, "busybox")
        yield e
        e.close()
    finally:
        e.destroy()


def test_timing(engine: Engine) -> None:
    done = engine.run("--debug=timing", "run", "--rm", "--network", "none", "busybox", "true")
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("timing: client: interpreter=")
    assert [p.partition("=")[0] for p in lines[0].partition("client: ")[2].partition(";")[0].split(", ")] == [
        "interpreter", "parse", "create", "attach", "start", "run", "exit",
    ]  # fmt: skip
    assert any(line.startswith("timing: engine: start: ") for line in lines)
    assert done.stdout == b""


def test_a_restarted_engine_loses_neither_output_nor_exit_code(engine: Engine) -> None:
    script = "echo before; until [ -e /go/on ]; do sleep 0.05; done; echo after; exit 9"
    gate = engine.base / "gate"
    gate.mkdir()
    process = subprocess.Popen(
        [WHARFIE, "run", "--network", "none", "-v", f"{gate}:/go", "busybox", "sh", "-c", script],
        env=engine.env(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout
        assert process.stdout.readline() == b"before\n"
        engine.kill()
        (gate / "on").touch()
        assert process.stdout.readline() == b"after\n"
        time.sleep(0.1)  # the client is asking nobody by now
        engine.start()
        assert process.wait(20) == 9, process.stderr.read() if process.stderr else ""


@pytest.fixture(scope="module")
def private() -> Iterator[Registry]:
    need("docker-registry")
    # The password is `secret`, hashed by bcrypt, the only kind that the registry takes.
    registry = Registry(htpasswd="me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a")
    yield registry
    registry.close()


def test_login_pull_logout(engine: Engine, private: Registry) -> None:
    config = Path(engine.env()["HOME"]) / ".docker/config.json"
    wrong = engine.run("login", "-u", "me", "--password-stdin", private.host, stdin=b"wrong\n", check=False)
    assert wrong.returncode == 1
    assert not config.exists()
    right = engine.run("login", "-u", "me", "--password-stdin", private.host, stdin=b"secret\n")
    assert right.stdout == b"Login Succeeded\n"
    assert list(json.loads(config.read_text())["auths"]) == [private.host]
    engine.run("tag", "busybox", f"{private.host}/box")
    engine.run("push", f"{private.host}/box")
    engine.run("rmi", f"{private.host}/box")
    assert engine.out("run", "--rm", "--network", "none", f"{private.host}/box", "echo", "ok") == "ok"
    engine.run("rmi", f"{private.host}/box")
    assert engine.out("logout", private.host) == f"Removing login credentials for {private.host}"
    refused = engine.run("pull", f"{private.host}/box", check=False)
    assert refused.returncode == 1
    assert b"wharfie login" in refused.stderr or b"auth" in refused.stderr.lower()


def test_push_and_pull_without_an_account(engine: Engine, registry: Registry) -> None:
    name = f"{registry.host}/pushed/by/cli:1"
    engine.run("tag", "busybox", name)
    pushed = engine.run("push", name).stdout.decode()
    assert "digest: sha256:" in pushed
    assert engine.out("push", "-q", name) == name
    engine.run("rmi", name)
    assert engine.out("pull", "-q", name) == name
    for missing in ("nosuch/image:1", "library/busybox:nosuchtag"):
        done = engine.run("pull", f"{registry.host}/{missing}", check=False)
        assert (done.returncode, done.stdout) == (1, b"")
        assert missing.rpartition(":")[0].encode() in done.stderr


def test_run_pulls_what_is_missing(engine: Engine, registry: Registry) -> None:
    name = images.Image([images.busybox_tar()], {"Labels": {"only": "here"}}).push(registry.host, "fresh")
    done = engine.run("run", "--rm", "--network", "none", name, "echo", "ok")
    assert done.stdout == b"ok\n"
    assert b"pulling it" in done.stderr
    assert b"Pulling from fresh" in done.stderr
    engine.run("rmi", name)
    quiet = engine.run("run", "-q", "--rm", "--network", "none", name, "echo", "ok")
    assert (quiet.stdout, quiet.stderr) == (b"ok\n", b"")
    gone = engine.run("run", "--rm", f"{registry.host}/nosuch", "true", check=False)
    assert gone.returncode == 125
