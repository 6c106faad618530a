# SPDX-License-Identifier: Apache-2.0
"""The HTTP server's connection, and what it must not do: read on behind a request that asks for `Upgrade: tcp`.

Clients send stdin right behind such a request. aiohttp's parsers differ, by version and language, in what becomes of
those bytes (some take them for the next request), so they are cut off before any parser sees them.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

_UPGRADE = re.compile(rb"\r\nupgrade:[ \t]*tcp[ \t]*\r\n", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
MAX_HEAD = 256 << 10


class Connection(web.RequestHandler):
    """`behind`: None, or what came behind a request that asked for an upgrade."""

    __slots__ = ("_body_left", "_partial", "behind")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.behind: bytes | None = None
        self._body_left = 0
        self._partial = b""

    def data_received(self, data: bytes) -> None:
        if self.behind is not None:
            body, rest = data[: self._body_left], data[self._body_left :]
            self._body_left -= len(body)
            self.behind += rest
            if len(self.behind) > MAX_HEAD and self.transport is not None:
                self.transport.pause_reading()
            if body:
                super().data_received(body)
            return
        if self._partial:
            data, self._partial = self._partial + data, b""
        end = data.find(b"\r\n\r\n")
        # Only while the handler waits for a head: between a head and the start of its handler no request is current yet,
        # and what comes then is its body.
        waiter = self._waiter
        if end < 0 and waiter is not None and not waiter.done() and len(data) < MAX_HEAD:
            self._partial = data  # a head that is not whole yet
            return
        if end >= 0 and b"pgrade" in data[:end]:
            head = data[: end + 2]
            if _UPGRADE.search(head):
                length = _LENGTH.search(head)
                whole = end + 4 + (int(length[1]) if length else 0)
                self._body_left = max(0, whole - len(data))
                self.behind = data[whole:]
                data = data[:whole]
        super().data_received(data)


class HttpServer(web.Server):
    """Makes `Connection`s."""

    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)
