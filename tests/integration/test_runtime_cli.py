# SPDX-License-Identifier: Apache-2.0
"""wharfie-oci by hand: the life of a container over its command line."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import need
from harness.runtime import OCI, busybox_layer
from wharfie.runtime.linux.template import template
from wharfie.spec.runtime import Spec, encode_spec

pytestmark = [pytest.mark.root]
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Path]:
    need("busybox")
    with busybox_layer() as layer:
        (tmp_path / "rootfs").symlink_to(layer)
        yield tmp_path


def write(bundle: Path, *args: str, terminal: bool = False) -> Spec:
    spec = template()
    assert spec.process
    spec.process.args = list(args)
    spec.process.env = ["PATH=/bin"]
    spec.process.terminal = terminal
    (bundle / "config.json").write_bytes(encode_spec(spec))
    return spec


@pytest.fixture
def cli(bundle: Path) -> Iterator[Cli]:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        # files, not pipes: a container that is created keeps what it was given open
        with (bundle / "out").open("w+b") as out, (bundle / "err").open("w+b") as err:
            command = [OCI, "--root", f"{bundle}/state", *args]
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False).returncode
        text = [(bundle / n).read_text() for n in ("out", "err")]
        return subprocess.CompletedProcess(command, code, text[0], text[1])

    yield run
    for name in json.loads(run("list", "--format", "json").stdout) or []:
        run("delete", "--force", name["id"])
    assert not list(Path("/sys/fs/cgroup").glob("*/cli-*"))


def test_life(cli: Cli, bundle: Path) -> None:
    write(bundle, "sleep", "100")
    name = f"cli-{os.getpid()}"
    done = cli("create", "--bundle", str(bundle), "--pid-file", f"{bundle}/pid", name)
    assert done.returncode == 0, done.stderr
    pid = int((bundle / "pid").read_text())
    state = json.loads(cli("state", name).stdout)
    assert (state["status"], state["pid"], state["id"]) == ("created", pid, name)
    assert "id is in use" in cli("create", "--bundle", str(bundle), name).stderr
    assert cli("start", name).returncode == 0
    assert "not created" in cli("start", name).stderr
    assert json.loads(cli("state", name).stdout)["status"] == "running"
    assert cli("exec", "--env", "A=b", "--cwd", "/tmp", name, "sh", "-c", "echo $A; pwd; exit 3").returncode == 3
    assert (bundle / "out").read_text() == "b\n/tmp\n"
    assert json.loads(cli("ps", "--format", "json", name).stdout) == [pid]
    assert cli("pause", name).returncode == 0
    assert json.loads(cli("state", name).stdout)["status"] == "paused"
    assert cli("resume", name).returncode == 0
    assert cli("update", "--pids-limit", "44", name).returncode == 0
    assert json.loads(cli("events", "--stats", name).stdout)["data"]["pids"]["limit"] == 44
    assert "it is running" in cli("delete", name).stderr
    assert cli("kill", name, "KILL").returncode == 0
    while json.loads(cli("state", name).stdout)["status"] != "stopped":
        pass
    assert cli("delete", name).returncode == 0
    assert "does not exist" in cli("state", name).stderr


def test_run_and_exit_code(cli: Cli, bundle: Path) -> None:
    write(bundle, "sh", "-c", "echo out; exit 9")
    done = cli("run", "--bundle", str(bundle), f"cli-run-{os.getpid()}")
    assert (done.returncode, done.stdout) == (9, "out\n"), done.stderr


def test_terminal_needs_a_console_socket(cli: Cli, bundle: Path) -> None:
    write(bundle, "tty", terminal=True)
    done = cli("create", "--bundle", str(bundle), f"cli-tty-{os.getpid()}")
    assert done.returncode == 1
    assert "--console-socket" in done.stderr
    assert json.loads(cli("list", "--format", "json").stdout) is None
