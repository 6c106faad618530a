# SPDX-License-Identifier: Apache-2.0
"""`/events`: the past that is still remembered, then what comes, until the client goes or `until` is reached."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import msgspec
from aiohttp import web

from wharfie.daemon.api.router import Call, Route
from wharfie.daemon.services import events_docker
from wharfie.events import Envelope

MAX_BEHIND = 4096
"""Events that a slow client may be behind; then its stream ends, and it knows that it missed some."""


async def _events(call: Call) -> web.StreamResponse:
    filters = call.filters(events_docker.FILTERS)
    now_s = time.time()
    since = events_docker.parse_time(call.text("since"), now_s)
    until = events_docker.parse_time(call.text("until"), now_s)
    loop = call.engine.loop
    queue: asyncio.Queue[Envelope | None] = asyncio.Queue()

    def heard(envelope: Envelope) -> None:
        loop.call_soon_threadsafe(_put, queue, envelope)

    def chosen(envelope: Envelope) -> dict[str, Any] | None:
        if envelope.namespace != call.namespace:
            return None
        stamp = envelope.timestamp_ns / 1e9
        if (since is not None and stamp < since) or (until is not None and stamp > until):
            return None
        event = events_docker.view(envelope)
        return event if event is not None and events_docker.matches(event, filters) else None

    cancel = call.engine.events.subscribe(heard)
    try:
        response = await call.stream()
        if since is not None:
            past = [e for envelope in call.engine.events.recent() if (e := chosen(envelope)) is not None]
            if past:
                await response.write(b"".join(msgspec.json.encode(e) + b"\n" for e in past))
        with contextlib.suppress(ConnectionError, TimeoutError):
            left = None if until is None else max(0.0, until - time.time())
            async with asyncio.timeout(left):
                while (envelope := await queue.get()) is not None:
                    event = chosen(envelope)
                    if event is not None:
                        await response.write(msgspec.json.encode(event) + b"\n")
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
    finally:
        cancel()
    return response


def _put(queue: asyncio.Queue[Envelope | None], envelope: Envelope) -> None:
    if queue.qsize() >= MAX_BEHIND:
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)
    else:
        queue.put_nowait(envelope)


ROUTES = (Route("GET", "/events", _events, streaming=True),)
