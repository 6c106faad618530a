# SPDX-License-Identifier: Apache-2.0
"""The embedded default: with nobody on the default socket, a command starts the daemon. Tried in a mount namespace with
an empty /run and /var/lib/wharfie of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import leaks
from harness.engine import WHARFIE

PREPARE = """
set -e
mount --make-rprivate /
mount -t tmpfs run /run
mkdir -p /var/lib/wharfie
mount -t tmpfs root /var/lib/wharfie
unset WHARFIE_HOST DOCKER_HOST
W={wharfie}
trap 'kill $(cat /run/wharfie/wharfied.pid 2>/dev/null) 2>/dev/null || :' EXIT
"""
STOP = """
pid=$(cat /run/wharfie/wharfied.pid)
cut -d' ' -f6 /proc/$pid/stat | sed "s/^$pid$/own session/"
grep -E 'name=systemd|^0:' /proc/$pid/cgroup || true
readlink /proc/$pid/fd/0 /proc/$pid/fd/2
kill $pid
while kill -0 $pid 2>/dev/null; do sleep 0.02; done
"""


def script(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", PREPARE.format(wharfie=WHARFIE) + body],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _no_cgroup_left() -> Iterator[None]:
    yield
    for base in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"):
        path = Path(base, "wharfied")
        if path.is_dir():
            left = leaks.wait_until_gone(lambda p=path: (p / "cgroup.procs").read_text().split())
            assert not left, [Path("/proc", pid, "cmdline").read_text() for pid in left]
            path.rmdir()


@pytest.mark.root
def test_first_commands_start_one_daemon() -> None:
    done = script(
        "$W ps -q & $W ps -q & $W ps -q & wait\n$W version -f '{{.Server.Version}}'\ngrep -c ready /run/wharfie/wharfied.log\n"
        + STOP
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    assert lines[:3] == ["0.1.0", "1", "own session"]
    assert [x for x in lines if "/wharfied" in x and ":" in x], lines  # out of this process's cgroup
    assert lines[-3:] == ["/dev/null", "/run/wharfie/wharfied.log", ""]
    assert done.stderr == ""


@pytest.mark.root
def test_a_daemon_that_cannot_start_is_quoted() -> None:
    done = script("mount -o remount,ro /var/lib/wharfie; $W ps")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "wharfie: start `wharfied`: it ended at once: " in done.stderr
    assert "wharfied.log" in done.stderr


@pytest.mark.root
def test_a_chosen_address_starts_nothing() -> None:
    done = script("$W -H unix:///run/other.sock ps || echo $?; [ ! -e /run/wharfie ]")
    assert done.stdout == "1\n"
    assert "connect to the engine at `unix:///run/other.sock`: no such file or directory" in done.stderr


@pytest.mark.root
def test_users_without_rights_are_told() -> None:
    done = script(
        "$W ps -q; chmod 0755 /run/wharfie; chmod 0600 /run/wharfie/wharfie.sock; "
        "setpriv --reuid 65534 --clear-groups $W ps || echo $?; " + STOP
    )
    assert done.stdout.startswith("1\n")
    assert "permission denied" in done.stderr
    assert "group" in done.stderr
