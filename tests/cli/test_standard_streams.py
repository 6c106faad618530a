# SPDX-License-Identifier: Apache-2.0
"""Standard descriptors that are closed, full or in another encoding."""

from __future__ import annotations

import subprocess

from cli.conftest import Host
from harness.engine import WHARFIE


def shell(host: Host, words: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["sh", "-c", words.replace("WHARFIE", WHARFIE)], env={**host.env(), **env}, capture_output=True, timeout=60
    )


RUN = "WHARFIE run --rm --network none busybox"


def test_closed(dockerd: Host) -> None:
    """The engine's socket must not become descriptor 1, and take the container's output for a request."""
    for closed in (">&-", "2>&-", "<&-", "<&- >&- 2>&-"):
        done = shell(dockerd, f"{RUN} sh -c 'echo out; echo err >&2; exit 5' {closed}")
        assert done.returncode == 5, (closed, done.stderr)
        assert done.stdout == (b"" if ">&-" in closed.split() else b"out\n")
    assert shell(dockerd, "WHARFIE ps >&-").returncode == 0


def test_full(dockerd: Host) -> None:
    done = shell(dockerd, "WHARFIE ps >/dev/full")
    assert (done.returncode, done.stderr) == (1, b"wharfie: write to stdout: no space left on device\n")


def test_encoding(dockerd: Host) -> None:
    dockerd.out("create", "--name", "enc", "--network", "none", "busybox", "a command that is too long for its column")
    assert "…".encode() in shell(dockerd, "WHARFIE ps -a", LC_ALL="C").stdout
    for locale in ("C.UTF-8", "en_US.ISO-8859-1", "nonsense"):
        assert b"enc" in shell(dockerd, "WHARFIE ps -a", LC_ALL=locale).stdout
