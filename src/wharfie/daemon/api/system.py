# SPDX-License-Identifier: Apache-2.0
"""`/_ping`, `/version`, `/info`, `/system/df`; and what this engine has none of, said so that clients understand it."""

from __future__ import annotations

from aiohttp import web

from wharfie.daemon.api.router import API_VERSION_TEXT, MIN_API_VERSION_TEXT, Call, Route
from wharfie.daemon.services import system_df
from wharfie.daemon.services.system import version_document
from wharfie.errdefs import Unavailable, Unsupported


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


async def _build(_call: Call) -> web.StreamResponse:
    raise Unsupported(
        "build image: the builder is not there yet",
        hint="build with buildah or BuildKit, then `load` the archive or `pull` from a registry",
    )


async def _build_prune(call: Call) -> web.StreamResponse:
    return call.json({"CachesDeleted": [], "SpaceReclaimed": 0})


async def _no_plugins(call: Call) -> web.StreamResponse:
    return call.json([])


async def _no_swarm(_call: Call) -> web.StreamResponse:
    raise Unavailable(
        "This node is not a swarm manager: this engine has no swarm",
        hint="Kubernetes is the way past one machine",
    )


_SWARM = ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs")

ROUTES = (
    Route("POST", "/build", _build),
    Route("POST", "/build/prune", _build_prune),
    Route("GET", "/plugins", _no_plugins),
    *(Route("GET", path, _no_swarm) for path in _SWARM),
    Route("POST", "/swarm/init", _no_swarm),
    Route("POST", "/swarm/join", _no_swarm),
    Route("GET", "/_ping", _ping),
    Route("HEAD", "/_ping", _ping),
    Route("GET", "/version", _version),
    Route("GET", "/info", _info),
    Route("GET", "/system/df", _df),
)
