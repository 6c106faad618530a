# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the daemon between and inside the steps of a container's life; what the next start makes of it."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.engine import Engine, UnixConnection

pytestmark = [pytest.mark.root, pytest.mark.crash]


@pytest.fixture
def engine(module_engine: Engine) -> Iterator[Engine]:
    yield module_engine
    module_engine.remove_containers()
    module_engine.assert_clean()
    left = list((module_engine.root / "containers").glob("*/*"))
    assert not left, left


def create(engine: Engine, image: str, *command: str, **host: Any) -> str:
    status, answer = engine.api(
        "POST",
        "/containers/create",
        {"Image": image, "Cmd": list(command), "HostConfig": {"NetworkMode": "none", **host}},
    )
    assert status == 201, answer
    return str(answer["Id"])


def state(engine: Engine, name: str) -> Any:
    status, answer = engine.api("GET", f"/containers/{name}/json")
    assert status == 200, answer
    return answer["State"]


def start(engine: Engine, name: str) -> None:
    status, answer = engine.api("POST", f"/containers/{name}/start")
    assert status == 204, answer


def restart(engine: Engine) -> None:
    engine.kill()
    engine.start()


def until(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_every_state_is_found_again(engine: Engine, busybox: str) -> None:
    created = create(engine, busybox, "true")
    running = create(engine, busybox, "sleep", "1000")
    paused = create(engine, busybox, "sleep", "1000")
    exited = create(engine, busybox, "sh", "-c", "exit 5")
    for name in (running, paused, exited):
        start(engine, name)
    engine.api("POST", f"/containers/{paused}/pause")
    engine.api("POST", f"/containers/{exited}/wait")
    before = {n: state(engine, n) for n in (created, running, paused, exited)}
    restart(engine)
    assert {n: state(engine, n) for n in (created, running, paused, exited)} == before
    assert engine.out("exec", running, "echo", "alive") == "alive"
    engine.api("POST", f"/containers/{paused}/unpause")
    assert state(engine, paused)["Status"] == "running"
    assert engine.api("POST", f"/containers/{running}/stop?t=0")[0] == 204
    assert state(engine, running)["ExitCode"] == 137
    start(engine, exited)
    assert engine.api("POST", f"/containers/{exited}/wait")[1] == {"StatusCode": 5}


def test_a_graceful_stop_leaves_containers_alone(engine: Engine, busybox: str) -> None:
    name = create(engine, busybox, "sleep", "1000")
    start(engine, name)
    pid = state(engine, name)["Pid"]
    assert engine.stop() == 0
    assert Path(f"/proc/{pid}").exists()
    engine.start()
    assert state(engine, name)["Pid"] == pid


def test_auto_remove_of_what_ended_meanwhile(engine: Engine, busybox: str) -> None:
    name = create(engine, busybox, "sh", "-c", "sleep 0.3", AutoRemove=True, Binds=["/anonymous"])
    start(engine, name)
    engine.kill()
    time.sleep(0.8)
    engine.start()
    until(lambda: engine.api("GET", f"/containers/{name}/json")[0] == 404)
    assert engine.api("GET", "/volumes")[1]["Volumes"] in (None, [])


def test_an_attached_wait_that_broke_can_be_asked_again(engine: Engine, busybox: str) -> None:
    name = create(engine, busybox, "sh", "-c", "sleep 0.5; exit 8")
    start(engine, name)
    restart(engine)
    assert engine.api("POST", f"/containers/{name}/wait")[1] == {"StatusCode": 8}


def test_reboot(engine: Engine, busybox: str) -> None:
    """Another boot: the run directory is empty and the boot id another one; the process is gone with its shim."""
    once = create(engine, busybox, "sleep", "1000")
    always = create(engine, busybox, "sleep", "1000", RestartPolicy={"Name": "unless-stopped"})
    stopped = create(engine, busybox, "sleep", "1000", RestartPolicy={"Name": "unless-stopped"})
    for name in (once, always, stopped):
        start(engine, name)
    assert engine.api("POST", f"/containers/{stopped}/stop?t=0")[0] == 204
    engine.kill()
    for shim in (engine.state / "shims").glob("*/*"):
        os.kill(json.loads((shim / "shim.json").read_text())["pid"], 9)
    time.sleep(0.3)
    # What a power cut leaves: records that say "running", of a boot that is over; no exit record; containers dead.
    for name in (once, always):
        pid = _pid_in_record(engine, name)
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, 9)
    db = sqlite3.connect(engine.root / "metadata.db")
    for id_, raw in db.execute("SELECT id, state FROM containers WHERE state IS NOT NULL").fetchall():
        document = json.loads(raw)
        if document.get("boot_id"):
            document["boot_id"] = "another"
            db.execute("UPDATE containers SET state = ? WHERE id = ?", (json.dumps(document).encode(), id_))
    db.commit()
    db.close()
    engine.start()
    found = state(engine, once)
    assert found["Status"] == "exited"
    assert found["ExitCode"] in {255, 137}
    until(lambda: state(engine, always)["Running"])
    assert state(engine, stopped)["Status"] == "exited"


def test_a_killed_supervisor(engine: Engine, busybox: str) -> None:
    once = create(engine, busybox, "sh", "-c", "echo written; sleep 1000")
    always = create(engine, busybox, "sleep", "1000", RestartPolicy={"Name": "always"})
    for name in (once, always):
        start(engine, name)
    until(lambda: engine.out("logs", once) == "written")
    pids = {name: state(engine, name)["Pid"] for name in (once, always)}
    for name in (once, always):
        os.kill(json.loads((engine.state / "shims/default" / name / "shim.json").read_text())["pid"], 9)
    assert engine.api("POST", f"/containers/{once}/wait")[1] == {"StatusCode": 137}
    found = state(engine, once)
    assert (found["Status"], found["ExitCode"], found["Error"]) == ("exited", 137, "supervisor died")
    assert not Path(f"/proc/{pids[once]}").exists()
    assert engine.out("logs", once) == "written"
    until(lambda: state(engine, always)["Running"] and state(engine, always)["Pid"] != pids[always])
    start(engine, once)
    assert state(engine, once)["Error"] == ""


def _pid_in_record(engine: Engine, name: str) -> int:
    db = sqlite3.connect(engine.root / "metadata.db")
    raw = db.execute("SELECT state FROM containers WHERE id = ?", (name,)).fetchone()[0]
    db.close()
    return int(json.loads(raw)["pid"])


def test_half_made_and_half_removed_containers_go(engine: Engine, busybox: str) -> None:
    keep, no_bundle, no_record = (create(engine, busybox, "true") for _ in range(3))
    engine.kill()
    import shutil

    shutil.rmtree(engine.root / "containers/default" / no_bundle)
    db = sqlite3.connect(engine.root / "metadata.db")
    db.execute("DELETE FROM containers WHERE id = ?", (no_record,))
    db.commit()
    db.close()
    (engine.root / "containers/default" / f"{'a' * 64}.new").mkdir()
    engine.start()
    assert [c["Id"] for c in engine.api("GET", "/containers/json?all=1")[1]] == [keep]
    assert [p.name for p in (engine.root / "containers/default").iterdir()] == [keep]
    start(engine, keep)
    assert engine.api("POST", f"/containers/{keep}/wait")[1] == {"StatusCode": 0}


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_anywhere_in_a_life(engine: Engine, busybox: str, seed: int) -> None:
    """Many threads create, start, stop and remove; the daemon is killed in the middle, again and again."""
    rng = random.Random(seed)
    stop = threading.Event()

    def live(n: int) -> None:
        own = random.Random(seed * 100 + n)
        while not stop.is_set():
            try:
                auto = own.random() < 0.5
                body = {
                    "Image": busybox,
                    "Cmd": ["sleep", "0.02" if own.random() < 0.6 else "1000"],
                    "HostConfig": {"NetworkMode": "none", "AutoRemove": auto},
                }
                status, made = engine.api("POST", "/containers/create", body, timeout=5)
                if status != 201:
                    continue
                engine.api("POST", f"/containers/{made['Id']}/start", timeout=5)
                if own.random() < 0.7:
                    engine.api("DELETE", f"/containers/{made['Id']}?force=1", timeout=5)
            except (OSError, ValueError, ConnectionError):
                time.sleep(0.01)
            except Exception as e:
                if (
                    "IncompleteRead" not in repr(e)
                    and "RemoteDisconnected" not in repr(e)
                    and "BadStatusLine" not in repr(e)
                ):
                    raise

    threads = [threading.Thread(target=live, args=(n,)) for n in range(3)]
    for t in threads:
        t.start()
    for _ in range(4):
        time.sleep(rng.uniform(0.05, 0.3))
        engine.kill()
        engine.start()
    stop.set()
    for t in threads:
        t.join()
    restart(engine)
    # What ended with --rm while no daemon was there is removed behind the start.
    until(lambda: not any(c["State"] == "removing" for c in engine.api("GET", "/containers/json?all=1")[1]))
    for c in engine.api("GET", "/containers/json?all=1")[1]:
        status, answer = engine.api("GET", f"/containers/{c['Id']}/json")
        if status == 404 or answer["State"]["Status"] == "removing":
            continue  # a short --rm one that ended just now
        info = answer["State"]
        if info["Running"]:
            assert Path(f"/proc/{info['Pid']}").exists()
            assert engine.run("exec", c["Id"], "true", check=False).returncode in {0, 1, 137}
        else:
            assert info["Status"] in {"created", "exited"}
    shims = {p.name for p in (engine.state / "shims").glob("*/*")}
    running = {c["Id"] for c in engine.api("GET", "/containers/json")[1]}
    assert shims >= running


def test_two_daemons_on_one_root_are_refused(engine: Engine) -> None:
    import subprocess

    from harness.engine import WHARFIED

    for args in (
        ["--root", str(engine.root), "--state", f"{engine.base}/run2"],
        ["--root", f"{engine.base}/r2", "--state", str(engine.state)],
    ):
        done = subprocess.run([WHARFIED, *args], capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 1
        assert str(engine.pid) in done.stderr
        assert "Traceback" not in done.stderr


def test_sighup_reloads_the_log_level(engine: Engine) -> None:
    import signal

    config = engine.base / "config.toml"
    text = config.read_text()
    try:
        config.write_text(f'{text}\nlog_level = "debug"\n')
        os.kill(engine.pid, signal.SIGHUP)
        until(lambda: "log_level=debug" in engine.log.read_text())
        config.write_text(f"{text}\nlog_level = 'loud'\n")
        os.kill(engine.pid, signal.SIGHUP)
        until(lambda: "'loud'" in engine.log.read_text())
        assert engine.api("GET", "/_ping")[0] == 200
    finally:
        config.write_text(text)
        os.kill(engine.pid, signal.SIGHUP)


def test_an_event_stream_ends_with_the_daemon_and_the_socket_is_taken_again(engine: Engine) -> None:
    connection = UnixConnection(str(engine.socket))
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.status == 200
    begin = time.monotonic()
    assert engine.stop() == 0
    assert time.monotonic() - begin < 10, "a client that listens for ever does not hold the daemon back"
    connection.close()
    engine.start()
