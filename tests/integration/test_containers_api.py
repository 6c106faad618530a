# SPDX-License-Identifier: Apache-2.0
"""The container half of the Engine API, spoken raw: states, waits, names, streams, limits."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from harness.engine import Engine, UnixConnection

pytestmark = [pytest.mark.root]


def create(engine: Engine, image: str, *command: str, name: str = "", code: int = 201, **body: Any) -> Any:
    query = f"?name={quote(name)}" if name else ""
    status, answer = engine.api(
        "POST",
        f"/containers/create{query}",
        {"Image": image, "Cmd": list(command), "HostConfig": {"NetworkMode": "none"}, **body},
    )
    assert status == code, answer
    return answer["Id"] if code == 201 else answer


def post(engine: Engine, path: str, body: Any = None) -> tuple[int, Any]:
    return engine.api("POST", path, body)


def inspect(engine: Engine, name: str) -> Any:
    status, answer = engine.api("GET", f"/containers/{name}/json")
    assert status == 200, answer
    return answer


class Stream:
    """A hijacked connection."""

    def __init__(self, engine: Engine, path: str, body: bytes = b"", first: bytes = b"") -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(engine.socket))
        head = (
            f"POST {path} HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.sock.sendall(head.encode() + body + first)
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(4096)
            assert data, self.buffer
            self.buffer += data
        self.head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")

    def rest(self) -> bytes:
        while data := self.sock.recv(65536):
            self.buffer += data
        self.sock.close()
        return self.buffer


def frames(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while data:
        size = int.from_bytes(data[4:8], "big")
        found[data[0]] = found.get(data[0], b"") + data[8 : 8 + size]
        data = data[8 + size :]
    return found


def wait_async(engine: Engine, name: str, condition: str) -> tuple[threading.Event, concurrent.futures.Future[Any]]:
    """A wait in a thread; the event is set once the answer's head is there."""
    headed = threading.Event()
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        connection = UnixConnection(str(engine.socket))
        try:
            connection.request("POST", f"/containers/{name}/wait?condition={condition}")
            answer = connection.getresponse()
            headed.set()
            future.set_result(json.loads(answer.read()))
        except BaseException as e:
            future.set_exception(e)
        finally:
            connection.close()

    threading.Thread(target=run, daemon=True).start()
    return headed, future


def test_life_of_a_container(engine: Engine, busybox: str) -> None:
    name = create(engine, busybox, "sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.05; done", name="life")
    state = inspect(engine, "life")["State"]
    assert (state["Status"], state["Running"], state["StartedAt"]) == ("created", False, "0001-01-01T00:00:00Z")
    assert post(engine, f"/containers/{name}/start")[0] == 204
    assert post(engine, f"/containers/{name}/start")[0] == 304
    assert inspect(engine, name[:12])["State"]["Status"] == "running"
    assert post(engine, "/containers/life/pause")[0] == 204
    assert post(engine, "/containers/life/pause")[0] == 409
    assert post(engine, "/containers/life/start")[0] == 409
    assert inspect(engine, "life")["State"]["Paused"] is True
    assert post(engine, "/containers/life/unpause")[0] == 204
    assert post(engine, "/containers/life/unpause")[0] == 409
    assert engine.api("DELETE", "/containers/life")[0] == 409
    assert post(engine, "/containers/life/stop?t=10")[0] == 204
    assert post(engine, "/containers/life/stop")[0] == 304
    state = inspect(engine, "life")["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", 4, 0)
    assert state["FinishedAt"] > state["StartedAt"]
    assert post(engine, "/containers/life/kill")[0] == 409
    assert post(engine, "/containers/life/restart?t=5")[0] == 204
    assert inspect(engine, "life")["State"]["Running"] is True
    assert engine.api("DELETE", "/containers/life?force=1")[0] == 204
    assert engine.api("GET", "/containers/life/json")[0] == 404


def test_stop_kills_what_does_not_listen(engine: Engine, busybox: str) -> None:
    create(engine, busybox, "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done", name="deaf")
    post(engine, "/containers/deaf/start")
    begin = time.monotonic()
    assert post(engine, "/containers/deaf/stop?t=1")[0] == 204
    assert 0.9 < time.monotonic() - begin < 6
    assert inspect(engine, "deaf")["State"]["ExitCode"] == 137


def test_kill_reaches_a_paused_container(engine: Engine, busybox: str) -> None:
    create(engine, busybox, "sleep", "100", name="frozen")
    post(engine, "/containers/frozen/start")
    post(engine, "/containers/frozen/pause")
    assert post(engine, "/containers/frozen/kill")[0] == 204
    assert inspect(engine, "frozen")["State"]["ExitCode"] == 137


def test_wait_conditions(engine: Engine, busybox: str) -> None:
    create(engine, busybox, "sh", "-c", "exit 6", name="w")
    assert post(engine, "/containers/w/wait")[1] == {"StatusCode": 0}, "not running: at once"
    headed, next_exit = wait_async(engine, "w", "next-exit")
    assert headed.wait(5)
    removed_headed, removed = wait_async(engine, "w", "removed")
    assert removed_headed.wait(5)
    assert not next_exit.done()
    post(engine, "/containers/w/start")
    assert next_exit.result(10) == {"StatusCode": 6}
    assert post(engine, "/containers/w/wait?condition=not-running")[1] == {"StatusCode": 6}
    assert not removed.done()
    engine.api("DELETE", "/containers/w")
    assert removed.result(10) == {"StatusCode": 6}
    assert post(engine, "/containers/w/wait")[0] == 404
    create(engine, busybox, "true", name="w")
    assert post(engine, "/containers/w/wait?condition=sometimes")[0] == 400


def test_waits_cost_no_thread(engine: Engine, busybox: str) -> None:
    create(engine, busybox, "sleep", "100", name="many")
    post(engine, "/containers/many/start")
    sockets = []

    def threads() -> int:
        with open(f"/proc/{engine.pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("Threads"))

    before = threads()
    for _ in range(200):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20)
        s.connect(str(engine.socket))
        s.sendall(b"POST /containers/many/wait HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n")
        assert s.recv(65536).startswith(b"HTTP/1.1 200")
        sockets.append(s)
    assert threads() <= before + 8
    post(engine, "/containers/many/kill")
    for s in sockets:
        text = b""
        while b"StatusCode" not in text:
            text += s.recv(65536)
        assert b"137" in text
        s.close()


def test_attach_before_start_carries_what_was_sent_behind_the_request(engine: Engine, busybox: str) -> None:
    name = create(
        engine,
        busybox,
        "sh",
        "-c",
        "cat; echo err >&2",
        OpenStdin=True,
        StdinOnce=True,
        AttachStdin=True,
        AttachStdout=True,
    )
    stream = Stream(engine, f"/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1", first=b"early ")
    assert stream.head.startswith(b"HTTP/1.1 101")
    assert b"application/vnd.docker.multiplexed-stream" in stream.head
    stream.sock.sendall(b"late")
    assert post(engine, f"/containers/{name}/start")[0] == 204
    stream.sock.shutdown(socket.SHUT_WR)
    assert frames(stream.rest()) == {1: b"early late", 2: b"err\n"}
    old = Stream(engine, f"/v1.41/containers/{name}/attach?stream=1&stdout=1")
    assert b"application/vnd.docker.raw-stream" in old.head
    old.sock.close()


def test_an_unclaimed_auto_remove_container_goes_with_its_client(engine: Engine, busybox: str) -> None:
    name = create(engine, busybox, "true", HostConfig={"AutoRemove": True, "NetworkMode": "none"})
    stream = Stream(engine, f"/containers/{name}/attach?stream=1&stdout=1")
    stream.sock.shutdown(socket.SHUT_WR)
    time.sleep(0.2)
    assert engine.api("GET", f"/containers/{name}/json")[0] == 200, "a client that only ended its input is still there"
    stream.sock.close()
    deadline = time.monotonic() + 5
    while engine.api("GET", f"/containers/{name}/json")[0] == 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_exec_by_hand(engine: Engine, busybox: str) -> None:
    name = create(engine, busybox, "sleep", "100", name="x")
    assert post(engine, "/containers/x/exec", {"Cmd": ["true"]})[0] == 409
    post(engine, "/containers/x/start")
    assert post(engine, "/containers/x/exec", {"Cmd": []})[0] == 400
    body = {"Cmd": ["sh", "-c", "cat; exit 7"], "AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
    status, made = post(engine, "/containers/x/exec", body)
    assert status == 201
    stream = Stream(engine, f"/exec/{made['Id']}/start", b'{"Detach":false,"Tty":false}', first=b"in")
    stream.sock.shutdown(socket.SHUT_WR)
    assert frames(stream.rest()) == {1: b"in"}
    info = engine.api("GET", f"/exec/{made['Id']}/json")[1]
    assert (info["Running"], info["ExitCode"], info["ContainerID"]) == (False, 7, name)
    assert post(engine, f"/exec/{made['Id']}/start", {})[0] == 409
    missing = post(engine, "/containers/x/exec", {"Cmd": ["nosuch"], "AttachStderr": True})[1]["Id"]
    said = frames(Stream(engine, f"/exec/{missing}/start", b"{}").rest())[2]
    assert b"nosuch" in said
    assert b"not found" in said
    assert engine.api("GET", f"/exec/{missing}/json")[1]["ExitCode"] == 127
    detached = post(engine, "/containers/x/exec", {"Cmd": ["sh", "-c", "exit 3"]})[1]["Id"]
    assert post(engine, f"/exec/{detached}/start", {"Detach": True})[0] == 200
    deadline = time.monotonic() + 5
    while engine.api("GET", f"/exec/{detached}/json")[1]["ExitCode"] != 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert engine.api("GET", "/exec/0123456789/json")[0] == 404


def test_cve_2022_23471_failed_execs_leave_nothing(engine: Engine, busybox: str) -> None:
    create(engine, busybox, "sleep", "100", name="x")
    post(engine, "/containers/x/start")

    def look() -> tuple[int, int]:
        fds = len(list((Path("/proc") / str(engine.pid) / "fd").iterdir()))
        with open(f"/proc/{engine.pid}/status") as f:
            return fds, next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))

    def fail() -> str:
        made = post(engine, "/containers/x/exec", {"Cmd": ["nosuch"], "AttachStdout": True, "Tty": True})[1]["Id"]
        Stream(engine, f"/exec/{made}/start", b'{"Tty":true}').rest()
        return str(made)

    first = fail()
    for _ in range(9):
        fail()
    fds, rss_kib = look()
    for _ in range(70):
        fail()
    after = look()
    assert after[0] <= fds + 2
    assert after[1] < rss_kib + 4096
    assert engine.api("GET", f"/exec/{first}/json")[0] == 404, "only the last ones are remembered"


def test_a_user_looked_up_for_an_exec_leaves_the_root_writable(engine: Engine, busybox: str) -> None:
    create(engine, busybox, "sleep", "100", name="u")
    post(engine, "/containers/u/start")
    assert engine.out("exec", "-u", "user", "u", "id", "-u") == "1000"
    assert engine.out("exec", "u", "sh", "-c", "echo new > /etc/made && rm /etc/group && cat /etc/made") == "new"


@pytest.mark.parametrize("bad", ["-x", "a/b", "a b", "../a", "ä", "x" * 300])
def test_bad_names(engine: Engine, busybox: str, bad: str) -> None:
    answer = create(engine, busybox, "true", name=bad, code=400)
    assert "container name" in answer["message"]


def test_a_name_is_given_once_however_many_ask(engine: Engine, busybox: str) -> None:
    def one(_: int) -> int:
        return engine.api(
            "POST",
            "/containers/create?name=wanted",
            {"Image": busybox, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}},
        )[0]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = sorted(pool.map(one, range(16)))
    assert found == [201] + [409] * 15
    other = create(engine, busybox, "true", name="other")
    status, answer = post(engine, f"/containers/{other}/rename?name=wanted")
    assert status == 409
    assert "wanted" in answer["message"]
    assert post(engine, f"/containers/{other}/rename?name=free")[0] == 204
    assert inspect(engine, "free")["Id"] == other
    assert engine.api("GET", "/containers/other/json")[0] == 404
    assert create(engine, busybox, "true", name="other")


def test_namespaces_do_not_see_each_other(engine: Engine, busybox: str) -> None:
    create(engine, busybox, "true", name="here")
    elsewhere = {"Wharfie-Namespace": "elsewhere"}
    assert engine.api("GET", "/containers/json?all=1", headers=elsewhere) == (200, [])
    assert engine.api("GET", "/containers/here/json", headers=elsewhere)[0] == 404
    assert engine.api("GET", "/containers/json", headers={"Wharfie-Namespace": "../x"})[0] == 400


def test_lists_and_their_filters(engine: Engine, busybox: str) -> None:
    one = create(engine, busybox, "sleep", "100", name="one", Labels={"tier": "web", "n": "1"}, Volumes={"/data": {}})
    two = create(engine, busybox, "sh", "-c", "exit 3", name="two", Labels={"tier": "db"})
    three = create(engine, busybox, "true", name="three")
    for name in (one, two):
        post(engine, f"/containers/{name}/start")
    post(engine, f"/containers/{two}/wait")

    def ids(**filters: list[str]) -> set[str]:
        status, rows = engine.api("GET", f"/containers/json?all=1&filters={quote(json.dumps(filters))}")
        assert status == 200, rows
        return {r["Names"][0][1:] for r in rows}

    assert [r["Id"] for r in engine.api("GET", "/containers/json")[1]] == [one]
    assert [r["Id"] for r in engine.api("GET", "/containers/json?all=1")[1]] == [three, two, one]
    assert [r["Id"] for r in engine.api("GET", "/containers/json?limit=2")[1]] == [three, two]
    assert ids(name=["^/t"]) == {"two", "three"}
    assert ids(label=["tier"]) == {"one", "two"}
    assert ids(label=["tier=web", "n"]) == {"one"}
    assert ids(status=["exited"]) == {"two"}
    assert ids(status=["created", "running"]) == {"one", "three"}
    assert ids(exited=["3"]) == {"two"}
    assert ids(exited=["0"]) == set()
    assert ids(id=[three[:10]]) == {"three"}
    assert ids(ancestor=[busybox]) == {"one", "two", "three"}
    assert ids(ancestor=["nothing"]) == set()
    assert ids(before=["two"]) == {"one"}
    assert ids(since=["two"]) == {"three"}
    assert ids(volume=["/data"]) == {"one"}
    assert ids(network=["none"]) == {"one", "two", "three"}
    assert ids(health=["none"]) == {"one", "two", "three"}
    for bad in ({"nosuch": ["x"]}, {"status": ["odd"]}, {"exited": ["x"]}, {"name": ["("]}):
        assert engine.api("GET", f"/containers/json?filters={quote(json.dumps(bad))}")[0] == 400, bad
    row = engine.api("GET", "/containers/json?size=1")[1][0]
    assert row["SizeRootFs"] >= row["SizeRw"] >= 0
    assert row["Command"] == "sleep 100"
    assert row["Status"].startswith(("Up ", "Less"))


def test_prune_takes_stopped_ones_that_fit(engine: Engine, busybox: str) -> None:
    keep = create(engine, busybox, "true", name="keep", Labels={"keep": "yes"})
    go = create(engine, busybox, "true", name="go")
    up = create(engine, busybox, "sleep", "100", name="up")
    post(engine, f"/containers/{up}/start")
    filters = quote(json.dumps({"label!": ["keep=yes"]}))
    assert post(engine, f"/containers/prune?filters={filters}")[1]["ContainersDeleted"] == [go]
    past = quote(json.dumps({"until": ["1h"]}))
    assert post(engine, f"/containers/prune?filters={past}")[1]["ContainersDeleted"] is None
    assert post(engine, "/containers/prune")[1]["ContainersDeleted"] == [keep]
    assert inspect(engine, "up")["State"]["Running"] is True


def test_bodies_have_a_limit_and_must_make_sense(engine: Engine, busybox: str) -> None:
    status, answer = engine.api("POST", "/containers/create", b'{"Image":"' + b"x" * (9 << 20) + b'"}')
    assert status == 413, answer
    for body in (b"", b"{", b"[]", b'{"Cmd": 5}', b'{"HostConfig": {"Memory": "much"}}'):
        status, answer = engine.api("POST", "/containers/create", body)
        assert status == 400, (body, answer)
    assert engine.api("POST", "/containers/create", {"Image": busybox, "NoSuchField": 1})[0] in {400, 501}
    assert engine.api("GET", "/containers/json?all=maybe")[0] == 400
    assert engine.api("GET", "/v1.23/containers/json")[0] == 400
    assert engine.api("GET", "/nothing")[0] == 404
    status, answer = engine.api("POST", "/containers/create", {"Image": "nosuch/image:1", "Cmd": ["x"]})
    assert status == 404
    assert "no such image" in answer["message"].lower()


def test_events_tell_the_story_of_a_run(engine: Engine, busybox: str) -> None:
    begin = time.time()
    name = create(engine, busybox, "true", name="story", Labels={"k": "v"})
    post(engine, f"/containers/{name}/start")
    post(engine, f"/containers/{name}/wait")
    engine.api("DELETE", f"/containers/{name}")
    connection = UnixConnection(str(engine.socket))
    connection.request(
        "GET", f"/events?since={begin:.3f}&until={time.time():.3f}&filters={quote(json.dumps({'container': [name]}))}"
    )
    told = [json.loads(line) for line in connection.getresponse().read().splitlines()]
    connection.close()
    assert [e["Action"] for e in told] == ["create", "start", "die", "destroy"]
    assert told[2]["Actor"]["Attributes"] == {
        "image": busybox, "name": "story", "k": "v", "exitCode": "0", "execDuration": "0",
    }  # fmt: skip


def test_stats_and_top(engine: Engine, busybox: str) -> None:
    create(
        engine,
        busybox,
        "sleep",
        "100",
        name="s",
        HostConfig={"Memory": 64 << 20, "PidsLimit": 20, "NetworkMode": "none"},
    )
    post(engine, "/containers/s/start")
    sample = engine.api("GET", "/containers/s/stats?stream=0&one-shot=1")[1]
    assert sample["memory_stats"]["limit"] == 64 << 20
    assert sample["memory_stats"]["usage"] > 0
    assert sample["pids_stats"] == {"current": 1, "limit": 20}
    assert sample["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert sample["cpu_stats"]["system_cpu_usage"] > 0
    table = engine.api("GET", "/containers/s/top?ps_args=-o%20pid,user,args")[1]
    assert table["Titles"] == ["PID", "USER", "COMMAND"]
    assert [row[1:] for row in table["Processes"]] == [["root", "sleep 100"]]
    post(engine, "/containers/s/kill")
    assert engine.api("GET", "/containers/s/top")[0] == 409
    assert engine.api("GET", "/containers/s/stats?stream=0&one-shot=1")[1]["pids_stats"] == {}


def test_health(engine: Engine, busybox: str) -> None:
    check = {"Test": ["CMD-SHELL", "echo looked; test -e /tmp/well"], "Interval": 100_000_000, "Retries": 2}
    create(engine, busybox, "sleep", "100", name="h", Healthcheck=check)
    post(engine, "/containers/h/start")

    def until(status: str) -> Any:
        deadline = time.monotonic() + 10
        while (health := inspect(engine, "h")["State"]["Health"])["Status"] != status:
            assert time.monotonic() < deadline, health
            time.sleep(0.05)
        return health

    sick = until("unhealthy")
    assert sick["FailingStreak"] >= 2
    assert sick["Log"][-1]["Output"] == "looked\n"
    assert sick["Log"][-1]["ExitCode"] == 1
    engine.run("exec", "h", "touch", "/tmp/well")
    assert until("healthy")["FailingStreak"] == 0
    assert "(healthy)" in engine.api("GET", "/containers/json")[1][0]["Status"]


def test_restart_policy_update_and_stop(engine: Engine, busybox: str) -> None:
    create(
        engine,
        busybox,
        "sh",
        "-c",
        "sleep 0.05; exit 1",
        name="r",
        HostConfig={"RestartPolicy": {"Name": "always"}, "NetworkMode": "none"},
    )
    post(engine, "/containers/r/start")
    deadline = time.monotonic() + 10
    while inspect(engine, "r")["RestartCount"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert post(engine, "/containers/r/stop?t=1")[0] == 204
    count = inspect(engine, "r")["RestartCount"]
    time.sleep(0.7)
    info = inspect(engine, "r")
    assert (info["State"]["Status"], info["RestartCount"]) == ("exited", count)
    assert post(engine, "/containers/r/update", {"RestartPolicy": {"Name": "no"}})[0] == 200
    assert inspect(engine, "r")["HostConfig"]["RestartPolicy"]["Name"] == "no"


def test_twenty_at_once(engine: Engine, busybox: str) -> None:
    def one(n: int) -> tuple[int, bytes]:
        done = engine.run("run", "--rm", "--network", "none", busybox, "sh", "-c", f"echo {n}; exit {n}", check=False)
        return done.returncode, done.stdout

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        found = list(pool.map(one, range(20)))
    assert found == [(n, f"{n}\n".encode()) for n in range(20)]
    assert engine.api("GET", "/containers/json?all=1")[1] == []


def test_phases_are_timed_when_asked_for(engine: Engine, busybox: str) -> None:
    connection = UnixConnection(str(engine.socket))
    body = json.dumps({"Image": busybox, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}})
    connection.request("POST", "/containers/create", body, {"Wharfie-Debug": "timing"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    phases = dict(p.split("=") for p in answer.headers["Wharfie-Timing"].split(","))
    assert {"image", "resolve", "files", "record"} <= phases.keys()
    assert all(float(ms) >= 0 for ms in phases.values())


def test_state_directories_are_closed_to_others(engine: Engine, busybox: str) -> None:
    """CVE-2021-41091, CVE-2021-41103."""
    name = create(engine, busybox, "true")
    for path in (
        engine.root,
        engine.root / "containers",
        engine.root / "containers/default" / name,
        engine.root / "volumes",
    ):
        assert path.stat().st_mode & 0o007 == 0, path
    assert engine.socket.stat().st_mode & 0o007 == 0
