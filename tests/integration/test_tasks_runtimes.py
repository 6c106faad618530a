# SPDX-License-Identifier: Apache-2.0
"""The same life under every runtime: ours (with and without a user namespace), runc and crun below our shim, and
containerd's own shim driven by our manager."""

from __future__ import annotations

import asyncio
import inspect
import json
import signal
import socket
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tasks_rig import OURS, RUNC_SHIM, with_real_rig

from wharfie.errdefs import NotFound, Unsupported

sys.path.insert(0, str(Path(__file__).parents[1] / "unit/tasks"))
from rig import Client, demultiplex

pytestmark = [pytest.mark.root]
KINDS = {
    "ours": {"runtime": OURS},
    "userns": {"runtime": OURS, "userns": True},
    "runc": {"runtime": "runc"},
    "crun": {"runtime": "crun"},
    "runc-shim": {"runtime": RUNC_SHIM},
}


def everywhere(test):
    """One test for each runtime, by keyword `kind`."""
    run = with_real_rig(test)
    run.__signature__ = inspect.Signature([inspect.Parameter("kind", inspect.Parameter.KEYWORD_ONLY)])
    del run.__wrapped__
    return pytest.mark.parametrize("kind", KINDS)(run)


@everywhere
async def test_a_life(rig, kind):
    client = Client()
    task = await rig.create("echo out; echo err >&2; exit 3", attach=[client.request], **KINDS[kind])
    client.sent()
    await task.start()
    assert (await task.wait()).exit_status == 3
    assert demultiplex(await client.read_all()) == {1: b"out\n", 2: b"err\n"}
    assert demultiplex(rig.log_data(task)) == {1: b"out\n", 2: b"err\n"}
    assert (await task.delete()).exit_status == 3


@everywhere
async def test_stdin_exec_kill_stats(rig, kind):
    client = Client(stdin=True)
    task = await rig.create(
        "cat; exec sleep 1000", stdin_open=True, stdin_once=True, attach=[client.request], **KINDS[kind]
    )
    client.sent()
    await task.start()
    await client.write(b"typed\n")
    client.sock.shutdown(socket.SHUT_WR)
    assert demultiplex(await client.read()) == {1: b"typed\n"}
    inner = Client(stdin=True)
    process = {"cwd": "/", "args": ["/bin/sh", "-c", "cat; exit 5"], "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
    await task.exec_create("e1", json.dumps(process).encode(), terminal=False, stdin_open=True, attach=[inner.request])
    inner.sent()
    await task.exec_start("e1")
    await inner.write(b"in exec\n")
    inner.sock.shutdown(socket.SHUT_WR)
    if kind == "runc-shim":
        await task.close_stdin(exec_id="e1")
    assert demultiplex(await inner.read_all()) == {1: b"in exec\n"}
    assert (await task.wait("e1")).exit_status == 5
    await task.exec_delete("e1")
    stats = await task.stats()
    assert stats["pids_current"] >= 1
    assert stats["cpu_usage_ns"] > 0
    assert task.pid in await task.pids()
    await task.pause()
    assert (await task.state()).status == "paused"
    await task.resume()
    await task.kill(signal.SIGKILL)
    assert (await task.wait()).exit_status == 137
    assert await client.read_all() == b""
    await task.delete()


@everywhere
async def test_terminal(rig, kind):
    client = Client(stdin=True, multiplexed=False)
    task = await rig.create(
        "read x; stty size; tty", terminal=True, stdin_open=True, attach=[client.request], **KINDS[kind]
    )
    client.sent()
    await task.start()
    await task.resize(132, 43)
    await client.write(b"x\n")
    got = await client.read_all()
    assert got.split() == [b"x", b"43", b"132", b"/dev/pts/0"], got
    assert (await task.wait()).exit_status == 0
    await task.delete()


@pytest.mark.parametrize("userns", [False, True])
def test_oom_kill_is_known(userns):
    @with_real_rig
    async def run(rig):
        limits = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
        task = await rig.create("/bin/tail", "/dev/zero", userns=userns, resources=limits)
        await task.start()
        ended = await task.wait()
        assert (ended.exit_status, ended.oom) == (137, True)
        assert (await task.delete()).oom

    run()


@everywhere
async def test_missing_program(rig, kind):
    with pytest.raises(NotFound if kind in ("ours", "userns") else Exception, match="no-such-program"):
        task = await rig.create("/bin/no-such-program", "x", **KINDS[kind])
        try:
            await task.start()
        finally:
            await task.delete()


@everywhere
async def test_found_again_by_a_new_manager(rig, kind):
    task = await rig.create("read x; echo after; exit 7", stdin_open=True, **KINDS[kind])
    await task.start()
    await rig.manager.close()
    rig.manager = rig.new_manager()
    await rig.manager.open()
    again = await rig.manager.recover("default", task.container_id)
    assert again.pid == task.pid
    await again.close_stdin()
    assert (await again.wait()).exit_status == 7
    for _ in range(100):
        if rig.log_data(task):
            break
        await asyncio.sleep(0.01)
    assert demultiplex(rig.log_data(task)) == {1: b"after\n"}
    await again.delete()


@with_real_rig
async def test_a_foreign_shim_is_not_asked_for_what_it_cannot_do(rig):
    with pytest.raises(Unsupported, match="cannot id-map"):
        await rig.create("true", runtime=RUNC_SHIM, userns=True)


@with_real_rig
async def test_unknown_runtimes(rig):
    for runtime in ("io.containerd.nonsense.v9", "/no/such/runtime"):
        with pytest.raises(NotFound, match=r"nonsense|/no/such/runtime"):
            await rig.create("true", runtime=runtime)


for _test in (test_a_foreign_shim_is_not_asked_for_what_it_cannot_do, test_unknown_runtimes):
    del _test.__wrapped__
