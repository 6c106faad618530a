# SPDX-License-Identifier: Apache-2.0
"""`/containers/{name}/exec` and `/exec`."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from aiohttp import web

from wharfie.daemon.api import hijack
from wharfie.daemon.api.containers_streams import container_of, detach_keys, stream_type
from wharfie.daemon.api.router import Call, Route
from wharfie.daemon.services.exec import ExecSession
from wharfie.errdefs import Conflict, InvalidArgument, WharfieError
from wharfie.spec.docker import decode_exec, decode_exec_start
from wharfie.tasks import AttachRequest


def _session(call: Call) -> ExecSession:
    return call.engine.execs.find(call.namespace, call.params["id"])


async def _create(call: Call) -> web.StreamResponse:
    config = decode_exec(await call.body())
    detach_keys(config.detach_keys)
    session = call.engine.execs.create(container_of(call), config)
    return call.json({"Id": session.id}, 201)


async def _start(call: Call) -> web.StreamResponse:
    session = _session(call)
    request = decode_exec_start(await call.body())
    config = session.config
    if session.status != "created":
        raise Conflict(f"exec {session.id} has already been started", hint="make a new one")
    if request.console_size is not None and config.tty:
        config.console_size = request.console_size
    if request.detach:
        await call.engine.execs.start(session, [])
        return call.empty(200)
    taken = hijack.take(call.request, stream_type(call, terminal=config.tty), call.headers())
    attach = AttachRequest(
        taken.fd,
        stdin=config.attach_stdin,
        stdout=config.attach_stdout,
        stderr=config.attach_stderr,
        multiplexed=not config.tty,
        head=taken.head,
        detach_keys=detach_keys(config.detach_keys) if config.tty else b"",
    )
    try:
        await call.engine.execs.start(session, [attach])
    except (WharfieError, OSError) as e:
        # The head is out: the reason goes where the program's words would have gone, the code into inspect.
        text = (e.full() if isinstance(e, WharfieError) else str(e)) + ("\r\n" if config.tty else "\n")
        data = text.encode()
        if not config.tty:
            data = b"\x02\0\0\0" + len(data).to_bytes(4, "big") + data
        with contextlib.suppress(OSError):
            os.write(taken.fd, data)
    finally:
        os.close(taken.fd)
    return hijack.Hijacked()


async def _resize(call: Call) -> web.StreamResponse:
    session = _session(call)
    width, height = call.number("w", 0) or 0, call.number("h", 0) or 0
    if not 0 <= width <= 65535 or not 0 <= height <= 65535:
        raise InvalidArgument(f"resize: {width}x{height} is out of range")
    if session.status == "created":
        session.config.console_size = [height, width]
        return call.empty(200)
    task = session.container.task
    if task is None or session.status != "running":
        raise Conflict(f"exec {session.id} is not running")
    await task.resize(width, height, exec_id=session.id)
    return call.empty(200)


async def _inspect(call: Call) -> web.StreamResponse:
    session = _session(call)
    await call.engine.execs.settle(session)
    config = session.config
    words = config.cmd or []
    document: dict[str, Any] = {
        "ID": session.id,
        "Running": session.status == "running",
        "ExitCode": session.exit_code,
        "ProcessConfig": {
            "tty": config.tty,
            "entrypoint": words[0] if words else "",
            "arguments": words[1:],
            "privileged": config.privileged,
        },
        "OpenStdin": config.attach_stdin,
        "OpenStderr": config.attach_stderr,
        "OpenStdout": config.attach_stdout,
        "CanRemove": session.status == "ended",
        "ContainerID": session.container.id,
        "DetachKeys": config.detach_keys,
        "Pid": session.pid,
    }
    if config.user:
        document["ProcessConfig"]["user"] = config.user
    return call.json(document)


ROUTES = (
    Route("POST", "/containers/{name}/exec", _create),
    Route("POST", "/exec/{id}/start", _start),
    Route("POST", "/exec/{id}/resize", _resize),
    Route("GET", "/exec/{id}/json", _inspect),
)
