# SPDX-License-Identifier: Apache-2.0
"""256 MB of lines through a shim, the log kept. Generous bounds for a busy machine; bench/ has the figures."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit/tasks"))
from rig import Rig, with_rig

pytestmark = [pytest.mark.slow]
SIZE = 256 << 20
LINES = f"/usr/bin/yes 'a line of sixty-four bytes, as programs write them all day long' | /usr/bin/head -c {SIZE}"


@with_rig
async def test_256_mb_with_the_log_kept(rig: Rig):
    task = await rig.create(LINES)
    begin = time.monotonic()
    await task.start()
    await task.wait()
    took = time.monotonic() - begin
    log = rig.base / task.container_id / "log/00000001.log"
    assert SIZE < log.stat().st_size < SIZE * 1.01
    await task.delete()
    assert took < 2.5, f"{took:.2f} s"
