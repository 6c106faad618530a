# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110
"""The whole way: manager -> zygote -> shim -> process, with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from rig import Client, Rig, demultiplex, open_fds, rss_kib, with_rig

from wharfie.errdefs import AlreadyExists, FailedPrecondition, NotFound, Unavailable
from wharfie.tasks import LogsRequest


@with_rig
async def test_a_life(rig: Rig):
    task = await rig.create("echo out; echo err >&2; exit 3")
    assert (await task.state()).status == "created"
    assert await task.start() == task.pid
    ended = await task.wait()
    assert (ended.exit_status, ended.oom) == (3, False)
    assert (await task.state()).exit == ended
    record = json.loads((rig.base / task.container_id / "exit.json").read_text())
    assert record == {"exit_status": 3, "exited_at_s": ended.exited_at_s, "oom": False, "pid": task.pid}
    assert demultiplex(rig.log_data(task)) == {1: b"out\n", 2: b"err\n"}
    deleted = await task.delete()
    assert deleted.exit_status == 3
    with pytest.raises(Unavailable):
        await task.wait()


@with_rig
async def test_exit_by_signal_and_kill_after_the_end(rig: Rig):
    task = await rig.create("/bin/sleep", "60")
    await task.start()
    with pytest.raises(FailedPrecondition, match="it is running"):
        await task.delete()
    await task.kill(signal.SIGKILL)
    assert (await task.wait()).exit_status == 137
    with pytest.raises(NotFound):
        await task.kill(signal.SIGKILL)
    await task.delete()


@with_rig
async def test_a_failing_create_leaves_nothing(rig: Rig):
    with pytest.raises(NotFound, match="exec '/no/such': no such file"):
        await rig.create("/no/such", "x", container_id="c")
    assert not (rig.base / "run/shims/default/c").exists()
    task, ended = await rig.run("true", container_id="c")
    assert ended.exit_status == 0
    with pytest.raises(AlreadyExists):
        await rig.create("true", container_id="c")
    await task.delete()


@with_rig
async def test_delete_of_one_never_started(rig: Rig):
    task = await rig.create("/bin/sleep", "60")
    await task.delete()
    with pytest.raises(ProcessLookupError):
        os.kill(task.pid, 0)


@with_rig
async def test_parked_client_gets_all_of_it(rig: Rig):
    client = Client()
    task = await rig.create("echo one; echo two >&2", attach=[client.request])
    client.sent()
    await task.start()
    assert demultiplex(await client.read_all()) == {1: b"one\n", 2: b"two\n"}
    await task.wait()
    await task.delete()


@with_rig
async def test_stdin_head_and_half_close(rig: Rig):
    client = Client(stdin=True, head=b"first ")
    task = await rig.create("/bin/cat", "-", stdin_open=True, stdin_once=True, attach=[client.request])
    client.sent()
    await task.start()
    await client.write(b"second\n")
    client.sock.shutdown(socket.SHUT_WR)
    assert demultiplex(await client.read_all()) == {1: b"first second\n"}
    assert (await task.wait()).exit_status == 0
    await task.delete()


@with_rig
async def test_stdin_larger_than_any_pipe(rig: Rig):
    client = Client(stdin=True)
    task = await rig.create("/usr/bin/wc", "-c", stdin_open=True, stdin_once=True, attach=[client.request])
    client.sent()
    await task.start()
    await client.write(b"x" * 5_000_000)
    client.sock.shutdown(socket.SHUT_WR)
    assert demultiplex(await client.read_all()) == {1: b"5000000\n"}
    await task.wait()
    await task.delete()


@with_rig
async def test_without_once_stdin_outlives_its_client(rig: Rig):
    first = Client(stdin=True)
    task = await rig.create("read a; read b; echo $a $b", stdin_open=True, attach=[first.request])
    first.sent()
    await task.start()
    await first.write(b"one\n")
    first.sock.close()
    second = Client(stdin=True)
    await task.attach(second.request)
    second.sent()
    await second.write(b"two\n")
    assert demultiplex(await second.read_all()) == {1: b"one two\n"}
    await task.wait()
    await task.delete()


@with_rig
async def test_detach_keys_end_the_client_alone(rig: Rig):
    client = Client(stdin=True, detach_keys=b"\x10\x11")
    task = await rig.create("/bin/cat", "-", stdin_open=True, stdin_once=True, attach=[client.request])
    client.sent()
    await task.start()
    await client.write(b"\x10x\n")
    assert demultiplex(await client.read()) == {1: b"\x10x\n"}
    await client.write(b"\x10")
    await asyncio.sleep(0.02)
    await client.write(b"\x11")
    assert await client.read_all() == b""
    assert (await task.state()).status == "running"
    await task.close_stdin()
    assert (await task.wait()).exit_status == 0
    await task.delete()


@with_rig
async def test_a_client_that_does_not_read_holds_nobody_up(rig: Rig):
    """It is served from the log when it comes back, every byte, though the container is long gone."""
    lazy, eager = Client(), Client()
    task = await rig.create("/usr/bin/seq", "2000000", attach=[lazy.request, eager.request])
    lazy.sent()
    eager.sent()
    await task.start()
    everything = demultiplex(await eager.read_all())[1]
    assert (await task.wait()).exit_status == 0
    assert everything.count(b"\n") == 2_000_000
    await task.delete()
    assert demultiplex(await lazy.read_all())[1] == everything


@with_rig
async def test_without_a_log_a_client_holds_the_container_up_but_loses_nothing(rig: Rig):
    client = Client()
    task = await rig.create("/usr/bin/seq", "1000000", attach=[client.request], driver="none")
    client.sent()
    await task.start()
    await asyncio.sleep(0.3)
    assert (await task.state()).status == "running"
    assert demultiplex(await client.read_all())[1].count(b"\n") == 1_000_000
    assert (await task.wait()).exit_status == 0
    await task.delete()


@with_rig
async def test_replay_then_live_without_gap_or_double(rig: Rig):
    task = await rig.create("i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; read x", stdin_open=True)
    await task.start()
    clients = []
    for _ in range(5):
        client = Client(replay_logs=True)
        await task.attach(client.request)
        client.sent()
        clients.append(client)
        await asyncio.sleep(0.005)
    await task.close_stdin()
    want = b"".join(b"%d\n" % i for i in range(3000))
    for client in clients:
        assert demultiplex(await client.read_all())[1] == want
    await task.wait()
    await task.delete()


@with_rig
async def test_logs_follow_to_the_end(rig: Rig):
    task = await rig.create("echo a; read x; echo b; echo c >&2", stdin_open=True)
    await task.start()
    ours, theirs = socket.socketpair()
    request = LogsRequest(theirs.fileno(), stdout=True, stderr=True, multiplexed=True)
    await task.logs(request)
    client = Client()
    client.sock.close()
    client.sock, client._theirs = ours, client._theirs
    ours.setblocking(False)
    theirs.close()
    assert demultiplex(await client.read()) == {1: b"a\n"}
    await task.close_stdin()
    assert demultiplex(await client.read_all()) == {1: b"b\n", 2: b"c\n"}
    client.sent()
    await task.wait()
    await task.delete()


@with_rig
async def test_terminal(rig: Rig):
    client = Client(stdin=True, multiplexed=False)
    task = await rig.create("read x; stty size; echo got $x", terminal=True, stdin_open=True, attach=[client.request])
    client.sent()
    await task.start()
    await task.resize(132, 43)
    await client.write(b"hello\n")
    assert await client.read_all() == b"hello\r\n43 132\r\ngot hello\r\n"
    await task.wait()
    assert rig.log_data(task) == b"hello\r\n43 132\r\ngot hello\r\n"
    await task.delete()


def process_json(*args: str, **kw) -> bytes:
    return json.dumps({"cwd": "/", "args": args, "env": ["PATH=/bin:/usr/bin"]} | kw).encode()


@with_rig
async def test_exec(rig: Rig):
    task = await rig.create("/bin/sleep", "60")
    await task.start()
    client = Client(stdin=True)
    await task.exec_create(
        "e1", process_json("/bin/sh", "-c", "cat; exit 5"), terminal=False, stdin_open=True, attach=[client.request]
    )
    client.sent()
    with pytest.raises(AlreadyExists):
        await task.exec_create("e1", process_json("/bin/true"), terminal=False, stdin_open=False)
    pid = await task.exec_start("e1")
    assert (await task.state("e1")).pid == pid
    await client.write(b"through\n")
    client.sock.shutdown(socket.SHUT_WR)
    assert demultiplex(await client.read_all()) == {1: b"through\n"}
    assert (await task.wait("e1")).exit_status == 5
    await task.exec_delete("e1")
    with pytest.raises(NotFound):
        await task.state("e1")
    await task.kill(9)
    await task.wait()
    await task.delete()


@with_rig
async def test_a_new_manager_finds_the_task_and_nothing_was_lost(rig: Rig):
    task = await rig.create("echo before; read x; echo after; exit 7", stdin_open=True)
    await task.start()
    await rig.manager.close()
    rig.manager = rig.new_manager()
    await rig.manager.open()
    again = await rig.manager.recover("default", task.container_id)
    assert again is not None
    assert again.pid == task.pid
    await again.close_stdin()
    assert (await again.wait()).exit_status == 7
    assert demultiplex(rig.log_data(task)) == {1: b"before\nafter\n"}
    await again.delete()
    assert await rig.manager.recover("default", task.container_id) is None


@with_rig
async def test_a_shim_from_the_future_is_left_alone(rig: Rig):
    task = await rig.create("/bin/sleep", "60")
    await task.start()
    identity = rig.base / "run/shims/default" / task.container_id / "shim.json"
    written = identity.read_text()
    identity.write_text(json.dumps({**json.loads(written), "version": 99}))
    await rig.manager.close()
    rig.manager = rig.new_manager()
    await rig.manager.open()
    with pytest.raises(FailedPrecondition, match="speaks version 99"):
        await rig.manager.recover("default", task.container_id)
    identity.write_text(written)
    again = await rig.manager.recover("default", task.container_id)
    await again.kill(9)
    await again.wait()
    await again.delete()


@with_rig
async def test_exit_while_no_daemon_runs_is_known_to_the_next(rig: Rig):
    task = await rig.create("read x; exit 9", stdin_open=True)
    await task.start()
    await task.close_stdin()
    await rig.manager.close()
    rig.manager = rig.new_manager()
    await rig.manager.open()
    again = await rig.manager.recover("default", task.container_id)
    assert (await again.wait()).exit_status == 9
    await again.delete()


@with_rig
async def test_killed_zygote_comes_back(rig: Rig):
    task = await rig.create("/bin/sleep", "60")
    await task.start()
    old = rig.manager.zygote.pid
    os.kill(old, signal.SIGKILL)
    for _ in range(100):
        try:
            assert await rig.manager.worker("echo", b"x") == b"x"
            break
        except Unavailable:
            await asyncio.sleep(0.01)
    assert rig.manager.zygote.pid != old
    assert (await task.state()).status == "running"
    await task.kill(9)
    assert (await task.wait()).exit_status == 137
    await task.delete()


@with_rig
async def test_killed_shim_is_swept_and_told(rig: Rig):
    task = await rig.create("echo kept; exec sleep 60")
    await task.start()
    while not rig.log_data(task):
        await asyncio.sleep(0.005)
    waiting = asyncio.ensure_future(task.wait())
    await asyncio.sleep(0.01)
    os.kill(rig.shim_pid(task), signal.SIGKILL)
    assert (await waiting).exit_status == 137
    assert rig.died == [("default", task.container_id)]
    assert json.loads((rig.base / task.container_id / "exit.json").read_text())["error"] == "supervisor died"
    assert demultiplex(rig.log_data(task)) == {1: b"kept\n"}
    os.kill(task.pid, signal.SIGKILL)  # the bare engine has no cgroup to be killed through


@with_rig
async def test_long_arguments(rig: Rig):
    long = os.urandom(3_000_000)
    assert await rig.manager.worker("echo", long) == long
    task = await rig.create("/bin/sleep", "60")
    await task.start()
    environment = ["PATH=/bin", *(f"V{i}=" + "x" * 50_000 for i in range(12))]
    client = Client()
    document = process_json("/bin/sh", "-c", "echo ${#V11}", env=environment)
    await task.exec_create("e", document, terminal=False, stdin_open=False, attach=[client.request])
    client.sent()
    await task.exec_start("e")
    assert demultiplex(await client.read_all()) == {1: b"50000\n"}
    await task.kill(9)
    await task.wait()
    await task.delete()


@with_rig
async def test_worker_errors_keep_their_class(rig: Rig):
    with pytest.raises(NotFound, match="look for 'it': no such thing") as e:
        await rig.manager.worker("fail", b"it")
    assert (e.value.hint, e.value.fields) == ("look elsewhere", {"path": "/x"})
    with pytest.raises(NotFound, match="no such entry"):
        await rig.manager.worker("nonsense", b"")


@with_rig
async def test_cancelled_worker_is_killed(rig: Rig):
    reader, writer = os.pipe()
    work = asyncio.ensure_future(rig.manager.worker("sleep", b"", [writer]))
    pid = int(await asyncio.to_thread(os.read, reader, 100))
    os.close(writer)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert await asyncio.to_thread(os.read, reader, 1) == b""  # its end is closed: the process is gone
    os.close(reader)
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}"):  # noqa: ASYNC240 -- procfs does not block; its parent has to bury it yet
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.slow
@with_rig
async def test_failing_execs_and_attaches_cost_nothing_in_the_end(rig: Rig):
    """CVE-2022-23471."""
    task = await rig.create("/bin/sleep", "60")
    await task.start()
    pid = rig.shim_pid(task)

    async def fail(i: int) -> None:
        await task.exec_create(f"e{i}", process_json("/no/such"), terminal=i % 2 == 0, stdin_open=True)
        with pytest.raises(NotFound):
            await task.exec_start(f"e{i}")
        await task.exec_delete(f"e{i}")
        client = Client(stdin=True)
        await task.attach(client.request)
        client.sent()
        client.sock.close()

    for i in range(300):
        await fail(i)
    rss, fds = rss_kib(pid), open_fds(pid)
    for i in range(300, 1500):
        await fail(i)
    assert rss_kib(pid) - rss < 300
    assert open_fds(pid) <= fds + 2  # the last client may still be on its way out
    await task.kill(9)
    await task.wait()
    await task.delete()
