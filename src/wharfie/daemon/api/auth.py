# SPDX-License-Identifier: Apache-2.0
"""`POST /auth`: check a login. What comes of it the client keeps; the daemon stores nothing."""

from __future__ import annotations

from aiohttp import web

from wharfie.daemon.api.router import Call, Route
from wharfie.daemon.services.credentials import credentials_of, decode_auth_config, registry_of
from wharfie.errdefs import InvalidArgument


async def _auth(call: Call) -> web.StreamResponse:
    config = decode_auth_config(await call.body())
    credentials = credentials_of(config)
    registry = registry_of(config.serveraddress)
    if credentials is None:
        raise InvalidArgument(f"log in to {registry!r}: neither user name nor token is given")
    result = await call.engine.transfer(call.engine.images.registry.login, registry, credentials)
    return call.json({"Status": result.status, "IdentityToken": result.identity_token})


ROUTES = (Route("POST", "/auth", _auth),)
