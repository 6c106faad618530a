# SPDX-License-Identifier: Apache-2.0
"""`/containers/{name}/archive` (cp) and `/containers/{name}/export`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from aiohttp import web

from wharfie.daemon.api.router import Call, Route
from wharfie.daemon.services import archive
from wharfie.daemon.services.archive_pipes import aclosing
from wharfie.daemon.services.container import Container
from wharfie.errdefs import InvalidArgument, WharfieError

_log = logging.getLogger("wharfie.daemon.api")
STAT_HEADER = "X-Docker-Container-Path-Stat"


def _container(call: Call) -> Container:
    return call.engine.containers.find(call.namespace, call.params["name"])


def _path(call: Call) -> str:
    path = call.text("path")
    if not path:
        raise InvalidArgument("missing query parameter: path")
    if "\0" in path:
        raise InvalidArgument("read query parameter 'path': it has a NUL byte")
    return path


async def _head(call: Call) -> web.StreamResponse:
    value = await archive.stat_path(call.engine, _container(call), _path(call))
    return web.Response(headers={**call.headers(), STAT_HEADER: value})


async def stream_bytes(
    call: Call, headers: dict[str, str], first: bytes, chunks: AsyncIterator[bytes], content_type: str
) -> web.StreamResponse:
    """A tar as it comes. What goes wrong in the middle can only cut the answer short, so it does."""
    response = web.StreamResponse(headers={**call.headers(), **headers})
    response.content_type = content_type
    await response.prepare(call.request)
    try:
        await response.write(first)
        async for chunk in chunks:
            await response.write(chunk)
    except (WharfieError, OSError) as e:
        if not isinstance(e, ConnectionError):
            _log.error("%s %s: %s", call.request.method, call.request.path, e)
        if call.request.transport is not None:
            call.request.transport.abort()
        return response
    await response.write_eof()
    return response


async def _get(call: Call) -> web.StreamResponse:
    chunks = archive.get(call.engine, _container(call), _path(call))
    async with aclosing(chunks):
        header = await anext(chunks)
        return await stream_bytes(call, {STAT_HEADER: header.decode()}, b"", chunks, "application/x-tar")


async def _put(call: Call) -> web.StreamResponse:
    await archive.put(
        call.engine,
        _container(call),
        _path(call),
        call.request.content,
        copy_owner=call.flag("copyUIDGID"),
        keep_kinds=call.flag("noOverwriteDirNonDir"),
    )
    return call.empty(200)


async def _export(call: Call) -> web.StreamResponse:
    container = _container(call)
    chunks = archive.export(call.engine, container)
    async with aclosing(chunks):
        first = await anext(chunks)
        call.engine.containers.publish(container, "/wharfie/container/export")
        return await stream_bytes(call, {}, first, chunks, "application/octet-stream")


ROUTES = (
    Route("HEAD", "/containers/{name}/archive", _head),
    Route("GET", "/containers/{name}/archive", _get, streaming=True),
    Route("PUT", "/containers/{name}/archive", _put, streaming=True),
    Route("GET", "/containers/{name}/export", _export, streaming=True),
)
