# SPDX-License-Identifier: Apache-2.0
"""Progress of pull, push and load: a bar per layer on a terminal, plain lines elsewhere.

The engine sends JSON values {id, status, progressDetail: {current, total}}; a failure comes as {errorDetail}.
A renderer of its own: rich takes 120 ms to import, longer than many pulls.
"""

from __future__ import annotations

import os
import sys
import time

from wharfie.client.engine import values
from wharfie.errdefs import WharfieError, from_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_FRAME_S = 0.06
_DONE = ("Pull complete", "Already exists", "Pushed", "Layer already exists", "Download complete", "Mounted from")


def show(chunks: Iterable[bytes], *, quiet: bool = False, fd: int = 1) -> list[Any]:
    """Render until the stream ends; gives the values meant for programs ("aux"). Raises: WharfieError of the engine."""
    sys.stdout.flush()
    renderer = Silent() if quiet else Bars(fd) if os.isatty(fd) else Lines(fd)
    aux = []
    try:
        for value in values(chunks):
            if detail := value.get("errorDetail") or value.get("error"):
                renderer.finish()
                raise _error(detail)
            if value.get("aux") is not None:
                aux.append(value["aux"])
            else:
                renderer.update(value)
    finally:
        renderer.finish()
    return aux


def collected(chunks: Iterable[bytes]) -> list[str]:
    """The statuses without rendering: for commands whose answer is one id. Raises: WharfieError of the engine."""
    result = []
    for value in values(chunks):
        if detail := value.get("errorDetail") or value.get("error"):
            raise _error(detail)
        if status := value.get("status"):
            result.append(status)
    return result


def _error(detail: Any) -> WharfieError:
    if not isinstance(detail, dict):
        return WharfieError(str(detail))
    message = str(detail.get("message") or "the engine gives no reason")
    code = detail.get("code")
    return from_code(code if isinstance(code, str) else "", message, hint=detail.get("hint"))


class Silent:
    def update(self, value: dict[str, Any]) -> None:
        """Only errors matter."""

    def finish(self) -> None:
        pass


class Lines(Silent):
    """One line per change of status: a log stays readable."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._last: dict[str, str] = {}

    def update(self, value: dict[str, Any]) -> None:
        if stream := value.get("stream"):
            os.write(self._fd, stream.encode())
            return
        status, name = value.get("status", ""), value.get("id", "")
        detail = value.get("progressDetail") or {}
        if detail.get("total") or detail.get("current") or self._last.get(name) == status:
            return
        if name:
            self._last[name] = status
        os.write(self._fd, (f"{name}: {status}\n" if name else f"{status}\n").encode())


class Bars(Silent):
    """A block of lines, one per layer, drawn again at most every 60 ms. What is finished gives way when space is short."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rows: dict[str, tuple[str, int, int]] = {}
        self._drawn = 0
        self._next = 0.0
        self._dirty = False

    def update(self, value: dict[str, Any]) -> None:
        status, name = value.get("status", ""), value.get("id", "")
        if not name or value.get("stream"):
            self.finish()
            self._write(value.get("stream") or f"{status}\n")
            return
        if status.startswith("Pulling from"):
            self.finish()
            self._write(f"{name}: {status}\n")
            return
        detail = value.get("progressDetail") or {}
        self._rows[name] = (status, detail.get("current") or 0, detail.get("total") or 0)
        self._dirty = True
        if time.monotonic() >= self._next:
            self._draw()

    def finish(self) -> None:
        self._draw()
        self._rows.clear()
        self._drawn = 0

    def _erase(self) -> str:
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._drawn = 0
        return f"{up}\r\x1b[J"

    def _draw(self) -> None:
        if not self._dirty or not self._rows:
            return
        self._dirty = False
        self._next = time.monotonic() + _FRAME_S
        columns, height = self._size()
        lines = [_row(name, *row, columns) for name, row in self._visible(height)]
        hidden = len(self._rows) - len(lines)
        if hidden:
            done = sum(row[0].startswith(_DONE) for row in self._rows.values())
            lines.append(f"{done} of {len(self._rows)} layers done"[: columns - 1])
        text = self._erase() + "".join(f"{line}\n" for line in lines)
        self._drawn = len(lines)
        self._write(text)

    def _visible(self, height: int) -> list[tuple[str, tuple[str, int, int]]]:
        rows = list(self._rows.items())
        room = max(1, height - 2)
        if len(rows) > room:
            rows = [r for r in rows if not r[1][0].startswith(_DONE)]
        return rows[: room - 1] if len(rows) > room or len(rows) < len(self._rows) else rows

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._fd)
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24

    def _write(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(self._fd, data) :]


def _row(name: str, status: str, current: int, total: int, columns: int) -> str:
    head = f"{name}  {status}"
    if not total and not current:
        return head[: columns - 1]
    from wharfie.cli.format.human import size

    tail = f"{size(current)} of {size(total)}" if total else size(current)
    head = head.ljust(28)
    room = columns - len(head) - len(tail) - 4
    if room < 8 or not total:
        return f"{head}  {tail}"[: columns - 1]
    room = min(room, 50)
    halves = min(2 * room, 2 * room * current // total)
    bar = "━" * (halves // 2) + ("╸" if halves % 2 else "")
    return f"{head} \x1b[36m{bar}\x1b[90m{'━' * (room - len(bar))}\x1b[0m {tail}"
