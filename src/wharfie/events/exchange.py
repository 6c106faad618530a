# SPDX-License-Identifier: Apache-2.0
"""Publish and subscribe, within one process, from any thread.

A subscriber gets a callback in the publisher's thread: it must not block. `daemon` wraps it into queues of its loop.
A subscriber that raises is a defect and does not disturb the others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from wharfie.events import Envelope

Subscriber = Callable[[Envelope], None]

_log = logging.getLogger(__name__)


class Exchange:
    def __init__(self, *, keep: int = 2048) -> None:
        self._recent: deque[Envelope] = deque(maxlen=keep)
        self._subscribers: tuple[Subscriber, ...] = ()
        self._lock = threading.Lock()

    def publish(
        self,
        namespace: str,
        topic: str,
        payload: dict[str, Any],
        *,
        subject: str = "",
        attributes: dict[str, str] | None = None,
        timestamp_ns: int | None = None,
    ) -> Envelope:
        """Tell everybody. `timestamp_ns` for what happened earlier and was only noticed now."""
        stamp = time.time_ns() if timestamp_ns is None else timestamp_ns
        envelope = Envelope(stamp, namespace, topic, payload, subject, attributes or {})
        with self._lock:
            self._recent.append(envelope)
            subscribers = self._subscribers
        for subscriber in subscribers:
            try:
                subscriber(envelope)
            except Exception:
                _log.exception("a subscriber did not take event %s", topic)
        return envelope

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` for every event from now on; the result ends it."""
        with self._lock:
            self._subscribers = (*self._subscribers, subscriber)

        def cancel() -> None:
            with self._lock:
                self._subscribers = tuple(s for s in self._subscribers if s is not subscriber)

        return cancel

    def recent(self) -> list[Envelope]:
        """The last events, oldest first by time."""
        with self._lock:
            return sorted(self._recent, key=lambda e: e.timestamp_ns)
