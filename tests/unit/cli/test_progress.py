# SPDX-License-Identifier: Apache-2.0
"""Progress on a real pseudo-terminal, and as lines on a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import termios
from collections.abc import Iterator
from typing import Any

import pytest

from wharfie.cli.progress import collected, show
from wharfie.errdefs import NotFound, WharfieError


def stream(*values: dict[str, Any]) -> list[bytes]:
    return [json.dumps(v).encode() + b"\r\n" for v in values]


PULL = [
    {"status": "Pulling from library/x", "id": "latest"},
    {"status": "Pulling fs layer", "id": "aaa"},
    {"status": "Pulling fs layer", "id": "bbb"},
    {"status": "Downloading", "id": "aaa", "progressDetail": {"current": 500, "total": 1000}},
    {"status": "Pull complete", "id": "aaa"},
    {"status": "Already exists", "id": "bbb"},
    {"status": "Digest: sha256:1"},
]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    monkeypatch.setattr("wharfie.cli.progress._FRAME_S", 0)
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 6, 70, 0, 0))
    os.set_blocking(master, False)
    yield master, slave
    os.close(master)
    os.close(slave)


def written(master: int) -> str:
    parts = []
    while True:
        try:
            parts.append(os.read(master, 65536))
        except BlockingIOError:
            return b"".join(parts).decode()


def screen(text: str) -> list[str]:
    """What a terminal shows after the text: line feeds, cursor up, erase below, colours."""
    lines, y = [""], 0
    for part in text.replace("\r\n", "\n").replace("\x1b", "\0\x1b").split("\0"):
        if part.startswith("\x1b["):
            end = next(i for i in range(2, len(part)) if part[i].isalpha())
            code, count, part = part[end], part[2:end], part[end + 1 :]
            if code == "A":
                y -= int(count)
            elif code == "J":
                lines = [*lines[:y], ""]
        for i, piece in enumerate(part.split("\n")):
            if i:
                y += 1
                lines += [""] * (y + 1 - len(lines))
            if piece.startswith("\r"):
                lines[y], piece = "", piece[1:]
            lines[y] += piece
    return [line for line in lines if line]


def test_bars_are_drawn_in_place(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    frames = []
    for count in range(4, len(PULL) + 1):
        show(stream(*PULL[:count]), fd=slave)
        frames.append(screen(written(master)))
    assert frames[0][:1] == ["latest: Pulling from library/x"]
    assert frames[0][1].startswith("aaa  Downloading")
    assert frames[0][1].count("━") + frames[0][1].count("╸") == 25 or "━" in frames[0][1]
    assert frames[0][1].endswith("500B of 1kB")
    assert frames[-1] == [
        "latest: Pulling from library/x",
        "aaa  Pull complete",
        "bbb  Already exists",
        "Digest: sha256:1",
    ]


def test_no_line_is_wider_than_the_terminal(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    layers = [
        {
            "status": "Extracting something with a rather long status",
            "id": f"layer{i:07}",
            "progressDetail": {"current": i, "total": 9},
        }
        for i in range(9)
    ]
    show(stream(*layers), fd=slave)
    lines = screen(written(master))
    assert max(map(len, lines)) < 70
    assert len(lines) <= 5  # six rows: the block must not scroll
    assert lines[-1] == "0 of 9 layers done"


def test_lines_on_a_pipe() -> None:
    read, write = os.pipe()
    show(stream(*PULL, {"stream": "Loaded image: x\n"}), fd=write)
    os.close(write)
    with open(read, encoding="utf-8") as f:
        assert f.read() == (
            "latest: Pulling from library/x\naaa: Pulling fs layer\nbbb: Pulling fs layer\naaa: Pull complete\n"
            "bbb: Already exists\nDigest: sha256:1\nLoaded image: x\n"
        )


def test_errors_end_it() -> None:
    with pytest.raises(WharfieError, match="no space left"):
        show(stream(PULL[0], {"error": "x", "errorDetail": {"message": "no space left"}}), quiet=True)
    with pytest.raises(NotFound) as e:
        collected(stream({"errorDetail": {"message": "gone", "code": "NotFoundError", "hint": "look elsewhere"}}))
    assert e.value.hint == "look elsewhere"
    assert show(stream({"aux": {"Digest": "sha256:1"}}), quiet=True) == [{"Digest": "sha256:1"}]
