# SPDX-License-Identifier: Apache-2.0
"""kill -9 of anything at any moment: the next start repairs the store, containers go on, nothing is lost or leaked."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from harness import images, leaks
from harness.engine import WHARFIE, Engine
from harness.registry import Registry

pytestmark = [pytest.mark.root, pytest.mark.crash]

COUNT = "i=0; while [ $i -lt {n} ]; do i=$((i+1)); echo $i; [ $((i % 200)) = 0 ] && sleep 0.02; done; exit {code}"


def zygote_pid(engine: Engine) -> int:
    for line in Path(f"/proc/{engine.pid}/task/{engine.pid}/children").read_text().split():
        return int(line)
    found = [pid for pid, command in leaks.processes_with(str(engine.state)) if "zygote" in command]
    return found[0]


def shim_pids(engine: Engine) -> list[int]:
    return [json.loads(f.read_text())["pid"] for f in (engine.state / "shims").glob("*/*/shim.json")]


def test_containers_outlive_the_daemon(own_engine: Engine, busybox: str) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "n", busybox, "sh", "-c", COUNT.format(n=20000, code=7))
    time.sleep(0.2)
    engine.kill()
    time.sleep(0.3)
    engine.start()
    assert engine.out("wait", "n") == "7"
    assert engine.out("logs", "n").split() == [str(i) for i in range(1, 20001)]


def test_exit_while_the_daemon_is_down(own_engine: Engine, busybox: str) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "n", busybox, "sh", "-c", "sleep 0.3; echo end; exit 9")
    started = time.time()
    engine.kill()
    time.sleep(0.8)
    engine.start()
    assert engine.out("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "n") == "exited 9"
    finished = engine.out("inspect", "-f", "{{.State.FinishedAt}}", "n")
    assert finished.startswith(time.strftime("%Y-%m-%dT", time.gmtime(started)))
    events = engine.out(
        "events",
        "--since",
        str(int(started) - 1),
        "--until",
        str(int(time.time()) + 1),
        "--filter",
        "event=die",
        "--format",
        "{{.Actor.Attributes.exitCode}}",
    )
    assert events == "9"


def test_attached_client_does_not_notice(own_engine: Engine, busybox: str) -> None:
    engine = own_engine
    client = subprocess.Popen(
        [WHARFIE, "run", "--name", "a", busybox, "sh", "-c", "echo before; sleep 1; echo after"],
        env=engine.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout
    assert client.stderr
    assert client.stdout.readline() == b"before\n"
    engine.kill()
    assert client.stdout.readline() == b"after\n"
    engine.start()
    client.communicate()
    assert client.returncode == 0


def test_shim_killed(own_engine: Engine, busybox: str) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "s", busybox, "sh", "-c", "echo written; sleep 1000")
    for _ in range(100):
        if engine.out("logs", "s") == "written":
            break
        time.sleep(0.02)
    (pid,) = shim_pids(engine)
    os.kill(pid, signal.SIGKILL)
    assert engine.out("wait", "s") == "137"
    assert engine.out("logs", "s") == "written"
    engine.assert_clean()
    engine.run("start", "s")
    assert engine.out("inspect", "-f", "{{.State.Running}}", "s") == "true"


def test_shim_killed_while_the_daemon_is_down(own_engine: Engine, busybox: str) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "s", busybox, "sleep", "1000")
    (pid,) = shim_pids(engine)
    engine.kill()
    os.kill(pid, signal.SIGKILL)
    engine.start()
    assert engine.out("wait", "s") == "137"
    engine.assert_clean()


def test_zygote_killed(own_engine: Engine, busybox: str) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "other", busybox, "sleep", "1000")
    os.kill(zygote_pid(engine), signal.SIGKILL)
    deadline = time.monotonic() + 5
    while engine.run("run", "--rm", busybox, "true", check=False).returncode:
        assert time.monotonic() < deadline, engine.log.read_text()[-2000:]
    assert engine.out("inspect", "-f", "{{.State.Running}}", "other") == "true"


def test_restart_policy_across_daemon_kill(own_engine: Engine, busybox: str) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "r", "--restart", "always", busybox, "sleep", "1000")
    (pid,) = shim_pids(engine)
    engine.kill()
    os.kill(pid, signal.SIGKILL)
    engine.start()
    for _ in range(100):
        if engine.out("inspect", "-f", "{{.State.Running}}", "r") == "true":
            return
        time.sleep(0.05)
    raise AssertionError("the container was not started again")


def test_pull_killed_at_random_moments(own_engine: Engine, registry: Registry) -> None:
    engine = own_engine
    layers = [
        images.busybox_tar(),
        *(images.make_tar({f"f{n}": random.Random(n).randbytes(6_000_000), f"s{n}": b"x"}) for n in range(4)),
    ]
    ref = images.Image(layers).push(registry.host, "killed-pull")
    seed = random.Random(7)
    for _ in range(8):
        client = subprocess.Popen(
            [WHARFIE, "pull", ref], env=engine.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(seed.uniform(0.02, 0.3))
        engine.kill()
        client.wait()
        engine.start()
        assert engine.run("images", "-q", check=True).returncode == 0
    engine.run("pull", ref)
    assert engine.out("run", "--rm", ref, "sh", "-c", "cat /f* | wc -c") == "24000000"
    assert not list((engine.root / "content/ingest").iterdir())
    engine.run("rmi", "-f", ref)


def test_daemon_killed_at_random_moments(own_engine: Engine, busybox: str) -> None:
    engine = own_engine
    seed = random.Random(11)
    for round_ in range(12):
        clients = [
            subprocess.Popen(
                [WHARFIE, *args],
                env=engine.env(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for args in (
                ("run", "--rm", busybox, "sleep", "0.05"),
                ("run", "-d", "--name", f"d{round_}", "-v", "/anon", busybox, "sleep", "1000"),
                ("create", "--name", f"c{round_}", busybox),
                ("rm", "-f", f"d{round_ - 1}"),
            )
        ]
        time.sleep(seed.uniform(0.0, 0.15))
        engine.kill()
        engine.start()
        for c in clients:
            c.wait(30)
    listed = {c["Names"][0][1:]: c["State"] for c in engine.api("GET", "/containers/json?all=1")[1]}
    for name, state in listed.items():
        if name.startswith("d") and state == "running":
            engine.run("exec", name, "true")
    engine.remove_containers()
    engine.assert_clean()
    engine.run("volume", "prune", "-f", "-a")
    assert engine.out("volume", "ls", "-q") == ""
    left = list((engine.root / "containers").glob("*/*"))
    assert not left, left
    assert engine.out("run", "--rm", busybox, "echo", "whole") == "whole"
