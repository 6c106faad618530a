# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110, ASYNC240
"""The process that the zygote keeps ready: taken by the next shim, missed by nobody, gone with the zygote."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from rig import Rig, with_rig


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def spare_of(rig: Rig) -> int:
    """Pid of the spare, once it waits for its message (in recvmsg)."""
    for _ in range(500):
        for pid in children(rig.manager.zygote.pid):
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"(spare)" in title and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S":
                return pid
        await asyncio.sleep(0.01)
    raise AssertionError("no spare was made")


@with_rig
async def test_the_next_shim_is_the_spare_and_another_is_made(rig: Rig):
    spare = await spare_of(rig)
    task = await rig.create("exit 4")
    assert rig.shim_pid(task) == spare
    assert b"(spare)" not in Path(f"/proc/{spare}/cmdline").read_bytes()
    await task.start()
    assert (await task.wait()).exit_status == 4
    assert await spare_of(rig) != spare
    await task.delete()


@with_rig
async def test_workers_leave_the_spare_alone(rig: Rig):
    spare = await spare_of(rig)
    assert await rig.manager.worker("echo", b"x") == b"x"
    assert await spare_of(rig) == spare


@with_rig
async def test_a_killed_spare_is_not_missed(rig: Rig):
    spare = await spare_of(rig)
    os.kill(spare, signal.SIGKILL)
    while spare in children(rig.manager.zygote.pid):
        await asyncio.sleep(0.005)
    task, ended = await rig.run("exit 5")
    assert ended.exit_status == 5
    await task.delete()


@with_rig
async def test_more_shims_at_once_than_spares(rig: Rig):
    await spare_of(rig)
    tasks = await asyncio.gather(*(rig.create(f"exit {n}") for n in range(4)))
    assert len({rig.shim_pid(t) for t in tasks}) == 4
    for n, task in enumerate(tasks):
        await task.start()
        assert (await task.wait()).exit_status == n
        await task.delete()


@with_rig
async def test_the_spare_ends_with_a_killed_zygote(rig: Rig):
    spare = await spare_of(rig)
    pidfd = os.pidfd_open(spare)
    os.kill(rig.manager.zygote.pid, signal.SIGKILL)
    ended = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(pidfd, lambda: ended.done() or ended.set_result(None))
    await asyncio.wait_for(ended, 5)
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)


@with_rig
async def test_a_spare_holds_nothing_of_the_zygote(rig: Rig):
    spare = await spare_of(rig)
    links = {int(f.name): os.readlink(f) for f in Path(f"/proc/{spare}/fd").iterdir()}
    assert sorted(links)[:3] == [0, 1, 2]
    rest = [link for number, link in links.items() if number > 2]
    assert len(rest) == 1, json.dumps(links)
    assert rest[0].startswith("socket:")
    assert os.getsid(spare) == spare
