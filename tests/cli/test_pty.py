# SPDX-License-Identifier: Apache-2.0
"""`-it` on a real terminal: raw mode, size, keys, signals, and the terminal as it was when we are gone."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Host
from harness.engine import WHARFIE

RUN = ("run", "--rm", "-it", "--network", "none", "busybox")


class Terminal:
    """A command on a pseudo-terminal of its own; `see()` waits for text on it."""

    def __init__(
        self, host: Host, *words: str, rows: int = 24, columns: int = 80, env: dict[str, str] | None = None
    ) -> None:
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [WHARFIE, *words], env={**host.env(), **(env or {})}, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
        )  # fmt: skip
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def see(self, text: str, timeout: float = 15) -> None:
        """Wait for the text; what comes before it is consumed."""
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def end(self) -> int:
        return self.process.wait(20)

    def is_as_before(self) -> bool:
        now: list[Any] = termios.tcgetattr(self.slave)
        return now == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(host: Host) -> Iterator[Any]:
    made: list[Terminal] = []

    def start(*words: str, **kw: Any) -> Terminal:
        made.append(Terminal(host, *words, **kw))
        return made[-1]

    yield start
    for t in made:
        t.close()


def test_shell(terminal: Any) -> None:
    t = terminal(*RUN, "sh", rows=31, columns=97)
    t.see("# ")
    t.type("stty size; tty; echo $TERM\r")
    t.see("31 97")
    t.see("/dev/pts/0")
    t.see("xterm")
    t.see("# ")
    assert not t.is_as_before()  # raw
    t.type("sleep 100\r")
    t.see("sleep 100")
    time.sleep(0.3)  # for the shell to start it: nothing shows when that is done
    t.type("\x03echo after=$?\r")
    t.see("after=130")
    t.type("exit 6\r")
    assert t.end() == 6
    assert t.is_as_before()


def test_resize(terminal: Any) -> None:
    t = terminal(*RUN, "sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done")
    t.see("ready")
    t.resize(40, 120)
    t.see("40 120")
    t.resize(10, 20)
    t.see("10 20")


def test_detach_and_attach_again(terminal: Any, host: Host) -> None:
    t = terminal("run", "-it", "--name", "dt", "--network", "none", "busybox", "sh")
    t.see("# ")
    t.type("\x10")
    t.type("\x11")
    assert t.end() == 0
    assert t.is_as_before()
    assert host.out("inspect", "-f", "{{.State.Running}}", "dt") == "true"
    t = terminal("attach", "dt")
    t.type("echo still $((40+2))\r")
    t.see("still 42")
    t.type("exit 3\r")
    assert t.end() == 3


@pytest.mark.parametrize("way", ["flag", "config"])
def test_own_detach_keys(terminal: Any, host: Host, tmp_path: Path, way: str) -> None:
    (tmp_path / "config.json").write_text('{"detachKeys": "ctrl-a,d"}')
    flags = ["--detach-keys", "ctrl-a,d"] if way == "flag" else []
    t = terminal(
        "run",
        *flags,
        "-it",
        "--network",
        "none",
        "busybox",
        "sh",
        env={"DOCKER_CONFIG": str(tmp_path)} if way == "config" else None,
    )
    t.see("# ")
    t.type("echo \x10\x11x$((1+1))\r")
    t.see("x2")
    t.type("\x01d")
    assert t.end() == 0


def test_exec(terminal: Any, host: Host) -> None:
    host.out("run", "-d", "--name", "ex", "--network", "none", "busybox", "sleep", "1000")
    t = terminal("exec", "-it", "ex", "sh", rows=22, columns=66)
    t.see("# ")
    t.type("stty size\r")
    t.see("22 66")
    t.type("exit 8\r")
    assert t.end() == 8
    assert t.is_as_before()


def test_the_terminal_survives_a_signal(terminal: Any) -> None:
    t = terminal(*RUN, "sh")
    t.see("# ")
    t.process.send_signal(signal.SIGTERM)
    assert t.end() == 128 + 15
    assert t.is_as_before()


def test_full_screen_program(terminal: Any) -> None:
    t = terminal(*RUN, "vi", "/etc/group")
    t.see("root:x:0:")
    t.see("/etc/group 1/")
    t.type("ihello\x1b")
    t.see("hello")
    t.type(":q!\r")
    assert t.end() == 0


def test_interrupt_without_a_container_terminal(terminal: Any) -> None:
    """^C on our terminal becomes SIGINT for us, and goes on to the container."""
    t = terminal(
        "run",
        "--rm",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "trap 'echo got it; exit 5' INT; echo ready; while :; do sleep 0.1; done",
    )
    t.see("ready")
    t.type("\x03")
    t.see("got it")
    assert t.end() == 5


def test_a_container_that_ignores_interrupts_can_be_left(terminal: Any) -> None:
    t = terminal(
        "run",
        "--rm",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "trap '' INT; echo ready; while :; do sleep 0.1; done",
    )
    t.see("ready")
    for _ in range(4):
        t.type("\x03")
        time.sleep(0.15)
    assert t.end() == 128 + 2


def test_signals_are_passed_on(host: Host) -> None:
    script = "trap 'echo usr1' USR1; trap 'echo term; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [WHARFIE, "run", "--rm", "--network", "none", "busybox", "sh", "-c", script], env=host.env(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )  # fmt: skip
    assert process.stdout
    with process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == b"usr1\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"term\n"
        assert process.wait(20) == 7


def test_progress_bars(terminal: Any, host: Host, busybox: str) -> None:
    """Header, a line per layer, summary. How lines are drawn again: tests/unit/cli/test_progress.py."""
    host.run("rmi", "-f", busybox, "busybox")
    t = terminal("pull", busybox)
    t.see("Pulling from library/busybox\r\n")
    t.see("\x1b[J")
    t.see("Digest: sha256:")
    assert t.end() == 0
    host.out("tag", busybox, "busybox")
