# SPDX-License-Identifier: Apache-2.0
"""Progress at a rate that people and pipes can follow."""

from __future__ import annotations

import threading
import time

from wharfie.transfer import Progress, ProgressCallback

_TICK_S = 0.1


class Throttle:
    """One event at a time, and at most ten a second of the same phase of the same object; a changed phase always goes."""

    def __init__(self, callback: ProgressCallback) -> None:
        self._callback = callback
        self._lock = threading.Lock()
        self._last: dict[str, tuple[str, float]] = {}

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        with self._lock:
            phase, at = self._last.get(progress.id, ("", 0.0))
            if phase == progress.phase and now - at < _TICK_S:
                return
            self._last[progress.id] = (progress.phase, now)
            self._callback(progress)
