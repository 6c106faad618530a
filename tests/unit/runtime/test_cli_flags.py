# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wharfie.errdefs import InvalidArgument
from wharfie.runtime.cli.flags import COMMANDS, GLOBAL, parse, size_bytes

OCI = str(Path(sys.executable).with_name("wharfie-oci"))


def test_parse() -> None:
    flags, rest = parse(["--root", "/x", "--log=/l", "--debug", "create", "--bundle", "b"], GLOBAL)
    assert (flags.text("root"), flags.text("log"), flags.on("debug")) == ("/x", "/l", True)
    flags, rest = parse(["-e", "A=1", "--env", "B=2", "-t", "--preserve-fds", "3", "id", "sh", "-c"], COMMANDS["exec"])
    assert (flags.items("env"), flags.on("tty"), flags.number("preserve-fds")) == (["A=1", "B=2"], True, 3)
    assert rest == ["id", "sh", "-c"]
    flags, rest = parse(["-f", "json"], COMMANDS["list"], "list")
    assert flags.text("format") == "json"
    flags, rest = parse(["--tty=false", "--", "-x"], COMMANDS["exec"])
    assert (flags.on("tty"), rest) == (False, ["-x"])


@pytest.mark.parametrize("args", [["--nope"], ["--preserve-fds", "x"], ["--pid-file"]])
def test_bad_flags(args: list[str]) -> None:
    with pytest.raises(InvalidArgument, match=r"flag|number"):
        parse(args, COMMANDS["create"])


def test_sizes() -> None:
    assert [size_bytes(t) for t in ("64m", "1G", "-1", "512", "2kb", "1GiB")] == [
        64 << 20,
        1 << 30,
        -1,
        512,
        2048,
        1 << 30,
    ]
    with pytest.raises(InvalidArgument):
        size_bytes("much")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nope"], "unknown command"),
        (["state", "../x"], "container id"),
        (["state", "not-there"], "does not exist"),
        (["checkpoint", "--pre-dump", "x"], "whole and on disk"),
        (["--systemd-cgroup", "create", "x"], "systemd driver"),
        (["create", "--bundle", "/nowhere", "x"], "config.json"),
    ],
)
def test_errors_on_stderr_and_in_the_log(args: list[str], words: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [OCI, "--root", str(tmp_path / "root"), "--log", str(log), "--log-format", "json", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert words in log.read_text()
    assert '"level":"error"' in log.read_text()


def test_version_features_spec(tmp_path: Path) -> None:
    def run(*args: str) -> str:
        return subprocess.run([OCI, *args], capture_output=True, text=True, check=True, cwd=tmp_path).stdout

    assert "spec: 1.2.0" in run("--version")
    assert '"SCMP_ACT_ERRNO"' in run("features")
    run("spec")
    assert '"ociVersion"' in (tmp_path / "config.json").read_text()
