# SPDX-License-Identifier: Apache-2.0
"""What the command line imports is its start-up time: 0.1 to 10 ms a module (style 2.2). Only these may be there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import Host
from harness.engine import BIN

SRC = Path(__file__).resolve().parents[2] / "src"
INTERPRETER = {
    "__main__", "_abc", "_codecs", "_frozen_importlib", "_frozen_importlib_external", "_imp", "_io", "_signal", "_thread",
    "_warnings", "_weakref", "abc", "builtins", "codecs", "encodings", "encodings.aliases", "encodings.utf_8", "io", "marshal",
    "posix", "sys", "time", "zipimport", "winreg", "nt", "_winapi",
}  # fmt: skip
OS = {"os", "os.path", "posixpath", "genericpath", "stat", "_stat", "_collections_abc", "errno", "__future__"}
WIRE = {"_socket", "_json"}
STREAMS = {"select", "_struct"}
LINES = (
    "import sys; sys.path.insert(0, {src!r}); from wharfie.cli.main import run; code = run({words!r}); "
    "sys.stdout.flush(); sys.stderr.write(chr(10) + '#'.join(sorted(sys.modules)))"
)


def modules(words: list[str], env: dict[str, str] | None = None) -> set[str]:
    """sys.modules after a command, under the flags that the launcher uses."""
    done = subprocess.run(
        [str(BIN / "python3"), "-SI", "-c", LINES.format(src=str(SRC), words=words)],
        env=env, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return set(done.stderr.rpartition("\n")[2].split("#"))


def foreign(found: set[str]) -> set[str]:
    return {m for m in found if not m.startswith("wharfie")} - INTERPRETER


def test_version() -> None:
    found = modules(["--version"])
    assert foreign(found) <= OS
    assert {m for m in found if m.startswith("wharfie.")} == {
        "wharfie.cli", "wharfie.cli.command", "wharfie.cli.commands", "wharfie.cli.flags", "wharfie.cli.main", "wharfie.errdefs",
    }  # fmt: skip


def test_ps(host: Host) -> None:
    assert foreign(modules(["ps"], host.env())) <= OS | WIRE


def test_run(host: Host) -> None:
    found = modules(["run", "--rm", "--network", "none", "busybox", "true"], host.env())
    assert foreign(found) <= OS | WIRE | STREAMS
    assert len({m for m in found if m.startswith("wharfie.")}) <= 26


def test_run_with_everything(host: Host) -> None:
    words = [
        "run",
        "--rm",
        "--network",
        "none",
        "-e",
        "A=b",
        "-m",
        "64m",
        "-v",
        "/tmp:/x",
        "-l",
        "a=b",
        "--init",
        "busybox",
        "true",
    ]
    assert foreign(modules(words, host.env())) <= OS | WIRE | STREAMS


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the names of interpreter modules differ between versions")
def test_interpreter_set_is_current() -> None:
    done = subprocess.run([str(BIN / "python3"), "-SI", "-c", "import sys; print('#'.join(sys.modules))"], capture_output=True, text=True, check=True)  # fmt: skip
    assert set(done.stdout.strip().split("#")) <= INTERPRETER
