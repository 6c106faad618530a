# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC240
"""What a shim exposes: sockets, descriptors, its program."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tasks_rig import with_real_rig

pytestmark = [pytest.mark.root]


def plain(test):
    del test.__wrapped__
    return test


@plain
@with_real_rig
async def test_sockets_are_files_that_only_root_reaches(rig):
    """CVE-2020-15257: no abstract socket, for a container on the host's network to find."""
    task = await rig.create("/bin/sleep", "1000")
    await task.start()
    shim = rig.shim_pid(task)
    run = rig.base / "run/shims/default" / task.container_id
    for name in ("shim.sock", "private.sock"):
        assert stat.S_IMODE((run / name).stat().st_mode) == 0o600
    for directory in (run, run.parent.parent):
        assert not stat.S_IMODE(directory.stat().st_mode) & 0o077
    inodes = {
        os.readlink(f"/proc/{shim}/fd/{fd}")[8:-1]
        for fd in os.listdir(f"/proc/{shim}/fd")
        if os.readlink(f"/proc/{shim}/fd/{fd}").startswith("socket:")
    }
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    names = [line[7] for line in lines if line[6] in inodes and len(line) > 7]
    assert len(names) >= 2
    assert not [n for n in names if n.startswith("@")]
    await task.kill(9)
    await task.wait()
    await task.delete()


@plain
@with_real_rig
async def test_program_is_a_sealed_copy(rig):
    """CVE-2019-5736: writing to /proc/PID/exe of a shim, as root of the host, fails."""
    task = await rig.create("/bin/sleep", "1000")
    await task.start()
    for pid in (rig.shim_pid(task), rig.manager.zygote.pid):
        exe = f"/proc/{pid}/exe"
        assert os.readlink(exe).startswith("/memfd:")
        with pytest.raises(OSError, match=r"busy|not permitted"):
            os.close(os.open(exe, os.O_WRONLY))
    await task.kill(9)
    await task.wait()
    await task.delete()


@plain
@with_real_rig
async def test_no_descriptor_of_ours_is_in_the_container(rig):
    task = await rig.create("exec sleep 1000")
    await task.start()
    while Path(f"/proc/{task.pid}/comm").read_text() != "sleep\n":  # noqa: ASYNC110 -- a process has no event to wait for
        await asyncio.sleep(0.01)
    held = {fd: os.readlink(f"/proc/{task.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{task.pid}/fd")}
    assert set(held) <= {"0", "1", "2", "10"}, held
    assert all(not link.startswith(("socket:", "/memfd:", "anon_inode:")) for link in held.values()), held
    await task.kill(9)
    await task.wait()
    await task.delete()


@plain
@with_real_rig
async def test_memory_of_a_shim(rig):
    """Less than 5 MB that nobody else shares."""
    task = await rig.create("/bin/sleep", "1000", userns=True)
    await task.start()
    private = sum(
        int(line.split()[1])
        for line in Path(f"/proc/{rig.shim_pid(task)}/smaps_rollup").read_text().splitlines()
        if line.startswith("Private_")
    )
    assert private < 5000, f"{private} KiB"
    await task.kill(9)
    await task.wait()
    await task.delete()
