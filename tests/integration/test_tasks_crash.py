# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110
"""kill -9 of shim, zygote or manager at random moments: exits are known, logs whole, nothing is left."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tasks_rig import RUNC_SHIM, RealRig, busybox_root, with_real_rig

from harness import leaks
from wharfie.errdefs import WharfieError

sys.path.insert(0, str(Path(__file__).parents[1] / "unit/tasks"))
from rig import Client, demultiplex

pytestmark = [pytest.mark.root, pytest.mark.crash]
SEED = int(os.environ.get("WHARFIE_SEED", "7"))


def plain(test):
    """Hide the rig parameter from pytest."""
    del test.__wrapped__
    return test


def whole_lines(data: bytes, *, tail_may_be_cut: bool) -> int:
    """Lines of a log that counts 0, 1, 2 …; the number of them."""
    text = demultiplex(data).get(1, b"")
    if tail_may_be_cut:
        text = text[: text.rfind(b"\n") + 1]
    lines = text.split(b"\n")[:-1]
    assert lines == [b"%d" % i for i in range(len(lines))]
    return len(lines)


def alive(pid: int) -> bool:
    """A zombie that its new parent has not got round to is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


COUNT = "i=0; while :; do echo $i; i=$((i+1)); done"


@plain
@with_real_rig
async def test_killed_shim(rig: RealRig):
    """Told at once; the container goes through its cgroup; the log is whole to the last chunk."""
    rng = random.Random(SEED)
    for kind in ({}, {"userns": True}, {"runtime": "runc"}, {"runtime": "crun"}):
        task = await rig.create(COUNT, **kind)
        await task.start()
        waiting = asyncio.ensure_future(task.wait())
        while not rig.log_data(task):
            await asyncio.sleep(0.002)
        await asyncio.sleep(rng.random() * 0.05)
        os.kill(rig.shim_pid(task), signal.SIGKILL)
        assert (await waiting).exit_status == 137
        assert not alive(task.pid)
        assert json.loads((rig.base / task.container_id / "exit.json").read_text())["error"] == "supervisor died"
        assert whole_lines(rig.log_data(task), tail_may_be_cut=True) > 0
    assert len(rig.died) == 4


@plain
@with_real_rig
async def test_shim_killed_while_no_daemon_runs(rig: RealRig):
    task = await rig.create("/bin/sleep", "1000")
    await task.start()
    shim = rig.shim_pid(task)
    await rig.manager.close()
    os.kill(shim, signal.SIGKILL)
    rig.manager = rig.new_manager()
    await rig.manager.open()
    assert await rig.manager.recover("default", task.container_id) is None
    assert json.loads((rig.base / task.container_id / "exit.json").read_text())["exit_status"] == 137
    assert not alive(task.pid)


@plain
@with_real_rig
async def test_shim_killed_after_its_container_ended_keeps_the_exit(rig: RealRig):
    task = await rig.create("exit 9")
    await task.start()
    assert (await task.wait()).exit_status == 9
    again = asyncio.ensure_future(task.wait())
    await again
    os.kill(rig.shim_pid(task), signal.SIGKILL)
    await asyncio.wait_for(task.ended, 5)
    while not rig.died:
        await asyncio.sleep(0.005)
    assert json.loads((rig.base / task.container_id / "exit.json").read_text())["exit_status"] == 9


@plain
@with_real_rig
async def test_shim_killed_during_create(rig: RealRig):
    """At any moment of a create: an error, or a task; and nothing is left once that is dead."""
    rng = random.Random(SEED)
    outcomes = set()
    for n in range(12):
        container_id = f"k{n}"
        creating = asyncio.ensure_future(rig.create("/bin/sleep", "1000", container_id=container_id, userns=n % 2 == 0))
        identity = rig.base / "run/shims/default" / container_id / "shim.json"
        while not identity.exists() and not creating.done():
            await asyncio.sleep(0.0005)
        await asyncio.sleep(rng.random() * 0.012)
        try:
            pid = json.loads(identity.read_text())["pid"]
            os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass
        try:
            task = await creating
        except WharfieError:
            outcomes.add("error")
            continue
        outcomes.add("task")
        assert (await task.wait()).exit_status == 137
    assert outcomes


@plain
@with_real_rig
async def test_killed_zygote_disturbs_no_container(rig: RealRig):
    rng = random.Random(SEED)
    tasks = [await rig.create(COUNT + " | head -c 300000; exit 4") for _ in range(3)]
    for task in tasks:
        await task.start()
    for _ in range(4):
        await asyncio.sleep(rng.random() * 0.05)
        try:
            os.kill(rig.manager.zygote.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        for _ in range(200):
            try:
                assert await rig.manager.worker("echo", b"x") == b"x"
                break
            except WharfieError:
                await asyncio.sleep(0.01)
        else:
            pytest.fail("the zygote did not come back")
    for task in tasks:
        assert (await task.wait()).exit_status == 4
        whole_lines(rig.log_data(task), tail_may_be_cut=True)
        assert len(demultiplex(rig.log_data(task))[1]) == 300000
        await task.delete()


MANAGER = """
import asyncio, json, sys
sys.path[:0] = json.loads(sys.argv[1])
from harness import leaks
from tasks_rig import RealRig
from pathlib import Path

async def main():
    rig = RealRig()
    rig.base.rmdir()
    rig.base = Path(sys.argv[2])
    rig.cgroup_parent = "/" + rig.base.name
    rig.manager = rig.new_manager()
    await rig.manager.open()
    n = int(sys.argv[3])
    while True:
        n += 1
        task = await rig.create("echo $$; exit 6", container_id=f"m{n}", userns=n % 2 == 0)
        await task.start()
        print(n, flush=True)
        if n % 3:
            assert (await task.wait()).exit_status == 6
            await task.delete()

asyncio.run(main())
"""


@plain
@with_real_rig
async def test_killed_manager(rig: RealRig):
    """A daemon that makes containers is killed again and again; its successor finds or clears every one of them."""
    rng = random.Random(SEED)
    last = 0
    for _ in range(6):
        daemon = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            MANAGER,
            json.dumps(sys.path),
            str(rig.base),
            str(last),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "WHARFIE_TEST_ROOT": busybox_root()},
        )
        assert daemon.stdout
        for _ in range(rng.randrange(1, 6)):
            last = int(await asyncio.wait_for(daemon.stdout.readline(), 10))
        await asyncio.sleep(rng.random() * 0.03)
        daemon.kill()
        rest = await daemon.stdout.read()
        last = max([last, *(int(x) for x in rest.split())]) + 2
        await daemon.wait()
        shims = rig.base / "run/shims/default"
        for container_id in [p.name for p in shims.iterdir()]:
            task = await rig.manager.recover("default", container_id)
            if task is None:
                continue
            state = await task.state()
            if state.status == "created":
                await task.delete()
                continue
            assert (await task.wait()).exit_status == 6
            assert demultiplex(rig.log_data(task)) == {1: b"1\n"}
            await task.delete()
        for _ in range(200):  # shims that were never asked to create end by themselves
            if not list(shims.iterdir()):
                break
            await asyncio.sleep(0.01)


@plain
@with_real_rig
async def test_killed_foreign_shim(rig: RealRig):
    task = await rig.create("echo kept; exec sleep 1000", runtime=RUNC_SHIM)
    await task.start()
    while not rig.log_data(task):
        await asyncio.sleep(0.005)
    waiting = asyncio.ensure_future(task.wait())
    await asyncio.sleep(0.05)
    address = json.loads((rig.base / "run/shims/default" / task.container_id / "address").read_text())
    pids = [p for p, _ in leaks.processes_with(f"-id {task.container_id} -address {rig.base}")]
    assert pids, address
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert (await waiting).exit_status == 137
    assert demultiplex(rig.log_data(task)) == {1: b"kept\n"}
    assert not alive(task.pid)


@plain
@with_real_rig
async def test_clients_survive_the_manager(rig: RealRig):
    """Bytes go from container to client while no daemon runs."""
    client = Client(stdin=True)
    task = await rig.create("read x; echo got $x; exit 2", stdin_open=True, attach=[client.request])
    client.sent()
    await task.start()
    await rig.manager.close()
    await client.write(b"it\n")
    assert demultiplex(await client.read_all()) == {1: b"got it\n"}
    rig.manager = rig.new_manager()
    await rig.manager.open()
    again = await rig.manager.recover("default", task.container_id)
    assert (await again.wait()).exit_status == 2
    await again.delete()
