# SPDX-License-Identifier: Apache-2.0
"""Lines inside chunks: time stamps before each, counting from the front. Whole chunks at a time."""

from __future__ import annotations

import time


def rfc3339(time_ns: int) -> str:
    """`2026-01-02T03:04:05.000000006Z`: always nine digits, as Docker writes before a line."""
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos:09}Z"


def after_newlines(data: bytes, count: int) -> int:
    """Offset after the count-th newline."""
    at = 0
    for _ in range(count):
        at = data.index(b"\n", at) + 1
    return at


class Stamper:
    """Puts a time stamp (and details) before each line; remembers per stream whether a line is open."""

    __slots__ = ("_details", "_open", "_timestamps", "active")

    def __init__(self, timestamps: bool, details: str) -> None:
        self._timestamps, self._details = timestamps, details
        self._open: set[int] = set()
        self.active = timestamps or bool(details)

    def stamp(self, stream: int, time_ns: int, data: bytes) -> bytes:
        if not data:
            return data
        text = (rfc3339(time_ns) + " " if self._timestamps else "") + (self._details + " " if self._details else "")
        prefix = text.encode()
        ends = data.endswith(b"\n")
        body = data[:-1] if ends else data
        body = body.replace(b"\n", b"\n" + prefix)
        if stream not in self._open:
            body = prefix + body
        if ends:
            self._open.discard(stream)
            return body + b"\n"
        self._open.add(stream)
        return body
