# SPDX-License-Identifier: Apache-2.0
"""The request lines of tests/golden, each through the engine: the container sees what was asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from golden import specdoc
from harness.engine import Engine
from harness.leaks import cgroups_named, wait_until_gone
from unit.oci.test_runtimes import SEES
from wharfie.oci.facts import probe

pytestmark = [pytest.mark.root]


def request(case: str, image: str, directory: str) -> dict[str, Any]:
    block = next((f"/dev/{n}" for n in sorted(os.listdir("/sys/block")) if os.path.exists(f"/dev/{n}")), "")
    document: dict[str, Any] = json.loads(
        json.dumps(specdoc.request(case)).replace('"/srv', f'"{directory}').replace("/dev/vda", block)
    )
    host = probe()
    h = document["HostConfig"]
    if not host.io_weight:
        h["BlkioWeight"] = 0
    if host.cgroup_version == 2:
        h["MemorySwappiness"], h["OomKillDisable"] = -1, False
    if case == "workdir":
        document["WorkingDir"] = "/srv/../var"
    document |= {"Image": image, "Entrypoint": None, "Tty": False}
    document["Cmd"] = ["sh", "-c", SEES[case][0] if case in SEES else "true"]
    return document


def remove_parent(path: str) -> None:
    """A --cgroup-parent is the user's: the engine leaves it where it is."""
    for hierarchy in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        directory = hierarchy / path.lstrip("/")
        while directory.is_dir() and directory != hierarchy:
            directory.rmdir()
            directory = directory.parent


@pytest.mark.parametrize("case", specdoc.CASES)
def test_case(engine: Engine, busybox: str, case: str, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    status, made = engine.api("POST", "/containers/create?name=c", request(case, busybox, str(tmp_path)))
    assert status == 201, made
    status, answer = engine.api("POST", "/containers/c/start")
    assert status == 204, answer
    status, answer = engine.api("POST", "/containers/c/wait")
    logs = engine.run("logs", "c")
    assert (status, answer["StatusCode"]) == (200, 0), logs
    if case == "cgroup-parent":
        assert engine.api("DELETE", "/containers/c")[0] == 204
        assert not wait_until_gone(lambda: cgroups_named("/some/where"))
        remove_parent("/some/where")
    assert logs.stdout.decode().splitlines() == SEES.get(case, ("", []))[1]
