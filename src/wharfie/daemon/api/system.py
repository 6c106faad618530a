# SPDX-License-Identifier: Apache-2.0
"""`/_ping`, `/version`, `/info`, `/system/df`."""

from __future__ import annotations

from aiohttp import web

from wharfie.daemon.api.router import API_VERSION_TEXT, MIN_API_VERSION_TEXT, Call, Route
from wharfie.daemon.services import system_df
from wharfie.daemon.services.system import version_document


async def _ping(call: Call) -> web.StreamResponse:
    headers = {
        **call.headers(),
        "Docker-Experimental": "false",
        "Swarm": "inactive",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
    }
    return web.Response(text="" if call.request.method == "HEAD" else "OK", headers=headers)


async def _version(call: Call) -> web.StreamResponse:
    return call.json(version_document(API_VERSION_TEXT, MIN_API_VERSION_TEXT))


async def _info(call: Call) -> web.StreamResponse:
    return call.json(await call.engine.files(call.engine.system.info, call.namespace))


async def _df(call: Call) -> web.StreamResponse:
    kinds = frozenset(call.query.getall("type", []))
    return call.json(await system_df.document(call.engine, call.namespace, kinds, call.version))


ROUTES = (
    Route("GET", "/_ping", _ping),
    Route("HEAD", "/_ping", _ping),
    Route("GET", "/version", _version),
    Route("GET", "/info", _info),
    Route("GET", "/system/df", _df),
)
