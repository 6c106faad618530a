# SPDX-License-Identifier: Apache-2.0
"""--init: the emitted program, alone and as process 1 of a container."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from harness.runtime import Rig, busybox_layer, open_rig
from wharfie.errdefs import Unsupported
from wharfie.runtime import Stdio
from wharfie.runtime.linux.init_program import descriptor, elf
from wharfie.runtime.linux.plan import INIT_ANNOTATION


def run(*args: str, signal_after: int = 0) -> int:
    fd = descriptor()
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(w, 1)
        os.execve(fd, ["init", *args], dict(os.environ))
    os.close(fd)
    os.close(w)
    if signal_after:
        os.read(r, 1)
        os.kill(pid, signal_after)
    os.close(r)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_exit_codes() -> None:
    assert run("/bin/sh", "sh", "-c", "exit 5") == 5
    assert run("/bin/sh", "sh", "-c", "kill -9 $$") == 137
    assert run("/no/where", "x") == 127
    assert run("/etc/passwd", "x") == 126


def test_signals_are_passed_on() -> None:
    script = 'trap "exit 9" TERM; echo .; while :; do sleep 0.01; done'
    assert run("/bin/sh", "sh", "-c", script, signal_after=signal.SIGTERM) == 9
    assert run("/bin/sh", "sh", "-c", "echo .; exec sleep 10", signal_after=signal.SIGINT) == 130


def test_environment_and_arguments() -> None:
    os.environ["WHARFIE_INIT_TEST"] = "here"
    try:
        assert run("/bin/sh", "name", "-c", '[ "$0 $WHARFIE_INIT_TEST $1" = "a here b" ]', "a", "b") == 0
    finally:
        del os.environ["WHARFIE_INIT_TEST"]


def test_other_architectures() -> None:
    assert elf("aarch64")[:4] == b"\x7fELF"
    with pytest.raises(Unsupported):
        elf("vax")


@pytest.fixture(params=["linux", "linux-userns"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    need("busybox")
    with busybox_layer() as layer, open_rig(request.param, tmp_path, layer) as rig:
        yield rig


@pytest.mark.root
def test_process_one_reaps_and_shows_nothing_of_the_host(rig: Rig) -> None:
    script = "(sleep 0.01 &); echo $$; cat /proc/1/comm; sleep 0.1; grep -l '^State:.Z' /proc/[0-9]*/status; exit 6"
    spec = rig.spec("sh", "-c", script)
    spec.annotations = {INIT_ANNOTATION: "1"}
    code, out = rig.run(spec=spec)
    assert (code, out.split()) == (6, ["2", "memfd:init"])


@pytest.mark.root
def test_terminal_belongs_to_the_program(rig: Rig) -> None:
    spec = rig.spec("sh", "-c", "trap 'exit 3' INT; echo ready; while :; do sleep 0.01; done", terminal=True)
    spec.annotations = {INIT_ANNOTATION: "1"}
    started = rig.create(spec, Stdio())
    assert started.console is not None
    rig.engine.start()
    seen = b""
    while b"ready" not in seen:
        seen += os.read(started.console, 100)
    os.write(started.console, b"\x03")
    assert rig.reap(started) == 3
    os.close(started.console)
