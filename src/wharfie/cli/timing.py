# SPDX-License-Identifier: Apache-2.0
"""`--debug=timing`: where the time of a command went, its own phases and the ones the engine reports."""

from __future__ import annotations

import time

TYPE_CHECKING = False


class Timing:
    """`mark(phase)` ends a phase. Without `on`, next to nothing happens."""

    __slots__ = ("_begin", "_last", "_marks", "_started")

    def __init__(self, on: bool) -> None:
        self._marks: list[tuple[str, float]] | None = [] if on else None
        self._begin = self._last = time.perf_counter()
        self._started = time.process_time() if on else 0.0

    def mark(self, phase: str) -> None:
        if self._marks is not None:
            now = time.perf_counter()
            self._marks.append((phase, (now - self._last) * 1000))
            self._last = now

    def report(self, engine: list[str]) -> None:
        """`interpreter` is CPU time from exec to the first line of the command; the rest is wall time, in ms."""
        if self._marks is None:
            return
        from wharfie.cli.say import err

        total = (self._last - self._begin) * 1000
        own = ", ".join(f"{phase}={ms:.1f}" for phase, ms in (("interpreter", self._started * 1000), *self._marks))
        err(f"timing: client: {own}; total={total + self._started * 1000:.1f} ms")
        for line in engine:
            err(f"timing: engine: {line.replace(',', ', ')} ms")
