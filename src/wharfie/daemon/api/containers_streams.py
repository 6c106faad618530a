# SPDX-License-Identifier: Apache-2.0
"""Attach, logs, resize, stats and top: what of `/containers` streams or looks into running processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from wharfie.daemon.api import hijack
from wharfie.daemon.api.router import Call, Route
from wharfie.daemon.services import stats as stats_service
from wharfie.daemon.services import top as top_service
from wharfie.daemon.services.containers_run import log_config
from wharfie.daemon.services.events_docker import parse_time
from wharfie.errdefs import Conflict, InvalidArgument, Unsupported, WharfieError
from wharfie.logs import open_reader
from wharfie.tasks import AttachRequest, LogsRequest

if TYPE_CHECKING:
    from wharfie.daemon.services.container import Container

_KEYS = {f"ctrl-{chr(c)}": c - 96 for c in range(ord("a"), ord("z") + 1)} | {
    "ctrl-@": 0, "ctrl-[": 27, "ctrl-\\": 28, "ctrl-]": 29, "ctrl-^": 30, "ctrl-_": 31,
}  # fmt: skip
DEFAULT_DETACH_KEYS = bytes((16, 17))


def container_of(call: Call) -> Container:
    """Raises NotFound."""
    return call.engine.containers.find(call.namespace, call.params["name"])


def detach_keys(text: str | None) -> bytes:
    """`ctrl-p,ctrl-q` -> bytes. None or "" is the default. Raises InvalidArgument."""
    if not text:
        return DEFAULT_DETACH_KEYS
    keys = bytearray()
    for word in text.split(","):
        if len(word) == 1 and word.isascii():
            keys.append(ord(word))
        elif word.lower() in _KEYS:
            keys.append(_KEYS[word.lower()])
        else:
            raise InvalidArgument(
                f"invalid detach keys {text!r}: {word!r} is no key", hint="as in ctrl-p,ctrl-q or a,b"
            )
    return bytes(keys)


def stream_type(call: Call, *, terminal: bool) -> str:
    """Clients before 1.42 know one media type only."""
    return hijack.RAW_STREAM if terminal or call.version < (1, 42) else hijack.MULTIPLEXED_STREAM


async def _attach(call: Call) -> web.StreamResponse:
    container = container_of(call)
    config = container.document().config
    keys = detach_keys(call.query.get("detachKeys"))
    stream, stdin = call.flag("stream"), call.flag("stdin")
    logs = call.flag("logs")
    if container.gone:
        raise Conflict(f"container {container.id} is marked for removal and cannot be attached to")
    if container.state.status == "paused":
        raise Conflict(f"container {container.id} is paused, unpause the container before attach")
    if logs and not stream:
        return await _logs_answer(call, container, follow=False, since=None, until=None, tail=None, stamps=False)
    if not stream:
        raise InvalidArgument("attach: neither stream nor logs is asked for", hint="add stream=1")
    taken = hijack.take(call.request, stream_type(call, terminal=config.tty), call.headers())
    request = AttachRequest(
        taken.fd,
        stdin=stdin and config.open_stdin,
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
        multiplexed=not config.tty,
        head=taken.head,
        detach_keys=keys if config.tty else b"",
        replay_logs=logs,
    )
    task = container.task
    if task is None or not container.state.alive:
        call.engine.containers.parking.park(container, request)
    else:
        try:
            await task.attach(request)
        except (WharfieError, OSError) as e:
            _say(taken.fd, f"attach: {e}\n", multiplexed=request.multiplexed)
        finally:
            os.close(taken.fd)
    call.engine.containers.publish(container, "/wharfie/container/attach")
    return hijack.Hijacked()


def _say(fd: int, text: str, *, multiplexed: bool) -> None:
    """A last word on a stream whose head is out already."""
    data = text.encode()
    if multiplexed:
        data = b"\x02\0\0\0" + len(data).to_bytes(4, "big") + data
    with contextlib.suppress(OSError):
        os.write(fd, data)


async def _logs(call: Call) -> web.StreamResponse:
    container = container_of(call)
    if not (call.flag("stdout") or call.flag("stderr")):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    tail_text = call.text("tail", "all")
    tail: int | None = None
    if tail_text not in {"", "all"}:
        if not tail_text.lstrip("-").isdigit():
            raise InvalidArgument(f"read query parameter 'tail': {tail_text!r} is not a number")
        tail = int(tail_text) if int(tail_text) >= 0 else None
    now_s = time.time()
    return await _logs_answer(
        call,
        container,
        follow=call.flag("follow"),
        since=parse_time(call.text("since"), now_s) or None,
        until=parse_time(call.text("until"), now_s) or None,
        tail=tail,
        stamps=call.flag("timestamps"),
    )


async def _logs_answer(
    call: Call,
    container: Container,
    *,
    follow: bool,
    since: float | None,
    until: float | None,
    tail: int | None,
    stamps: bool,
) -> web.StreamResponse:
    document = container.document()
    log = log_config(call.engine.containers, container, document)
    if log.driver not in {"local", "json-file"}:
        raise Unsupported(
            f"configured logging driver {log.driver!r} does not support reading",
            hint="run the container with another --log-driver",
        )
    details = ""
    if call.flag("details"):
        from wharfie.daemon.services.log_details import log_details

        details = log_details(document)
    tty = document.config.tty
    taken = hijack.take(call.request, stream_type(call, terminal=tty), call.headers())
    request = LogsRequest(
        taken.fd,
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
        multiplexed=not tty,
        follow=follow,
        since_s=since,
        until_s=until,
        timestamps=stamps,
        tail=tail,
        details=details,
    )
    task = container.task
    if task is not None:
        try:
            await task.logs(request)
        except (WharfieError, OSError):
            pass  # it ended in this moment: its log is read here
        else:
            os.close(taken.fd)
            return hijack.Hijacked()
    reader = open_reader(log.driver, log.path)

    def copy() -> None:
        try:
            if sys.platform != "win32":
                os.set_blocking(taken.fd, True)
            reader.copy_to(taken.fd, request)
        except OSError:
            pass  # the client is gone
        finally:
            os.close(taken.fd)

    call.engine.loop.run_in_executor(call.engine.pools.streams, copy)
    return hijack.Hijacked()


async def _resize(call: Call) -> web.StreamResponse:
    container = container_of(call)
    width, height = call.number("w", 0) or 0, call.number("h", 0) or 0
    if not 0 <= width <= 65535 or not 0 <= height <= 65535:
        raise InvalidArgument(f"resize: {width}x{height} is out of range")
    await call.engine.containers.run.running_task(container).resize(width, height)
    call.engine.containers.publish(container, "/wharfie/container/resize", width=str(width), height=str(height))
    return call.empty(200)


async def _stats(call: Call) -> web.StreamResponse:
    container = container_of(call)
    stream, one_shot = call.flag("stream", default=True), call.flag("one-shot")
    if not stream:
        sampler = stats_service.Sampler(call.engine, container)
        if not one_shot:
            await sampler.sample()
            if container.state.alive:
                await asyncio.sleep(1)
        return call.json(await sampler.sample())
    response = await call.stream()
    sampler = stats_service.Sampler(call.engine, container)
    with contextlib.suppress(ConnectionError):
        while not container.gone:
            await response.write(msgspec.json.encode(await sampler.sample()) + b"\n")
            await asyncio.sleep(1)
        await response.write_eof()
    return response


async def _top(call: Call) -> web.StreamResponse:
    container = container_of(call)
    task = call.engine.containers.run.running_task(container)
    pids = await task.pids()
    args = call.text("ps_args", "-ef")
    extents = container.document().userns.extents
    return call.json(await call.engine.files(top_service.top, pids, args, extents))


ROUTES = (
    Route("POST", "/containers/{name}/attach", _attach),
    Route("GET", "/containers/{name}/logs", _logs),
    Route("POST", "/containers/{name}/resize", _resize),
    Route("GET", "/containers/{name}/stats", _stats, streaming=True),
    Route("GET", "/containers/{name}/top", _top),
)
