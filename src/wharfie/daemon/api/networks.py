# SPDX-License-Identifier: Apache-2.0
"""`/networks`: the three that always exist; what makes more of them answers 501 until networking lands."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from aiohttp import web

from wharfie.daemon.api.router import Call, Route
from wharfie.daemon.services.networks import Network, Networks
from wharfie.errdefs import InvalidArgument


def document(network: Network) -> dict[str, Any]:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(network.created_s))
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": created,
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": []},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            id_: {"Name": name, "EndpointID": "", "MacAddress": "", "IPv4Address": "", "IPv6Address": ""}
            for id_, name in network.containers
        },
        "Options": {},
        "Labels": {},
    }


def _accepts(filters: dict[str, list[str]], network: Network) -> bool:
    if "name" in filters and not any(part in network.name for part in filters["name"]):
        return False
    if "id" in filters and not any(part in network.id for part in filters["id"]):
        return False
    if "driver" in filters and network.driver not in filters["driver"]:
        return False
    if "scope" in filters and "local" not in filters["scope"]:
        return False
    if "type" in filters and "builtin" not in filters["type"]:
        return False
    return not filters.get("label") and ("dangling" not in filters or filters["dangling"][-1].lower() in {"false", "0"})


async def _list(call: Call) -> web.StreamResponse:
    networks: Networks = call.engine.networks
    filters = call.filters(("dangling", "driver", "id", "label", "name", "scope", "type"))
    return call.json([document(n) for n in networks.all(call.namespace) if _accepts(filters, n)])


async def _inspect(call: Call) -> web.StreamResponse:
    return call.json(document(call.engine.networks.find(call.namespace, call.params["id"])))


def _field(data: bytes, name: str) -> str:
    try:
        fields = msgspec.json.decode(data or b"{}", type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError) as e:
        raise InvalidArgument(f"read network request: {e}") from e
    return str(fields.get(name) or "")


async def _create(call: Call) -> web.StreamResponse:
    networks: Networks = call.engine.networks
    network = networks.create(_field(await call.body(), "Name"))
    return call.json({"Id": network.id, "Warning": ""}, 201)


async def _connect(call: Call) -> web.StreamResponse:
    networks: Networks = call.engine.networks
    networks.connect(call.namespace, call.params["id"], _field(await call.body(), "Container"))
    return call.empty(200)


async def _remove(call: Call) -> web.StreamResponse:
    call.engine.networks.remove(call.namespace, call.params["id"])
    return call.empty()


async def _prune(call: Call) -> web.StreamResponse:
    call.filters(("label", "label!", "until"))
    return call.json({"NetworksDeleted": None})


ROUTES = (
    Route("GET", "/networks", _list),
    Route("POST", "/networks/create", _create),
    Route("POST", "/networks/prune", _prune),
    Route("GET", "/networks/{id}", _inspect),
    Route("DELETE", "/networks/{id}", _remove),
    Route("POST", "/networks/{id}/connect", _connect),
    Route("POST", "/networks/{id}/disconnect", _connect),
)
