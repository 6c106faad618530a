# SPDX-License-Identifier: Apache-2.0
"""Times as the Engine API writes them."""

from __future__ import annotations

import time

ZERO = "0001-01-01T00:00:00Z"
"""Go's zero time: never."""


def rfc3339(stamp_ns: int) -> str:
    """UTC with nanoseconds; 0 is never."""
    if stamp_ns <= 0:
        return ZERO
    seconds, fraction = divmod(stamp_ns, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}Z"


def ago(seconds: float) -> str:
    """`5 seconds`, `About a minute`, `2 hours`: how `ps` words a duration."""
    n = int(seconds)
    if n < 1:
        return "Less than a second"
    if n < 60:
        return "1 second" if n == 1 else f"{n} seconds"
    minutes = n // 60
    if minutes < 46:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = round(seconds / 3600)
    if hours < 48:
        return "About an hour" if hours <= 1 else f"{hours} hours"
    days = hours // 24
    if days < 14:
        return f"{days} days"
    if days < 60:
        return f"{days // 7} weeks"
    if days < 365 * 2:
        return f"{days // 30} months"
    return f"{days // 365} years"
