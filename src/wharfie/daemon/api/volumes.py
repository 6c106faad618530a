# SPDX-License-Identifier: Apache-2.0
"""`/volumes`: create, list, inspect, remove, prune."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from wharfie.daemon.api.router import Call, Route
from wharfie.daemon.services.volumes import Volumes
from wharfie.daemon.services.volumes_records import Volume
from wharfie.errdefs import InvalidArgument, Unsupported


class _Create(msgspec.Struct, rename="pascal", forbid_unknown_fields=True):
    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: Any = None


async def _create(call: Call) -> web.StreamResponse:
    data = await call.body()
    try:
        request = msgspec.json.decode(data or b"{}", type=_Create)
    except (msgspec.DecodeError, msgspec.ValidationError) as e:
        raise InvalidArgument(f"read volume create request: {e}") from e
    if request.cluster_volume_spec is not None:
        raise Unsupported("create volume: cluster volumes need a swarm, which this engine has not")
    volumes: Volumes = call.engine.volumes
    volume = await volumes.create(
        request.name, driver=request.driver, options=request.driver_opts, labels=request.labels
    )
    return call.json(volume.document(), 201)


def labels_match(labels: dict[str, str], wanted: list[str]) -> bool:
    """Whether all of `key` and `key=value` are there."""
    for want in wanted:
        key, equals, value = want.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def _accepts(volumes: Volumes, filters: dict[str, list[str]], volume: Volume) -> bool:
    if "name" in filters and not any(part in volume.name for part in filters["name"]):
        return False
    if "driver" in filters and volume.driver not in filters["driver"]:
        return False
    if not labels_match(volume.labels, filters.get("label", [])):
        return False
    if any(labels_match(volume.labels, [unwanted]) for unwanted in filters.get("label!", [])):
        return False
    if "dangling" in filters:
        wanted = boolean("dangling", filters["dangling"])
        return wanted != bool(volumes.users(volume.name))
    return True


def boolean(name: str, values: list[str]) -> bool:
    """The value of a filter that is true or false. Raises InvalidArgument."""
    value = values[-1].lower() if values else ""
    if value in {"1", "true"}:
        return True
    if value in {"0", "false"}:
        return False
    raise InvalidArgument(f"invalid filter {name!r}: {value!r} is neither true nor false")


async def _list(call: Call) -> web.StreamResponse:
    volumes: Volumes = call.engine.volumes
    filters = call.filters(("dangling", "driver", "label", "name"))
    found = [v.document() for v in volumes.all() if _accepts(volumes, filters, v)]
    return call.json({"Volumes": found, "Warnings": None})


async def _inspect(call: Call) -> web.StreamResponse:
    return call.json(call.engine.volumes.get(call.params["name"]).document())


async def _remove(call: Call) -> web.StreamResponse:
    await call.engine.volumes.remove(call.params["name"], force=call.flag("force"))
    return call.empty()


async def _prune(call: Call) -> web.StreamResponse:
    volumes: Volumes = call.engine.volumes
    filters = call.filters(("all", "label", "label!"))
    everything = call.version < (1, 42) or ("all" in filters and boolean("all", filters.pop("all")))
    filters.pop("all", None)
    chosen = [v for v in volumes.all() if (everything or v.anonymous) and _accepts(volumes, filters, v)]
    removed, freed = await volumes.prune(chosen)
    return call.json({"VolumesDeleted": removed, "SpaceReclaimed": freed})


ROUTES = (
    Route("POST", "/volumes/create", _create),
    Route("GET", "/volumes", _list),
    Route("POST", "/volumes/prune", _prune),
    Route("GET", "/volumes/{name}", _inspect),
    Route("DELETE", "/volumes/{name}", _remove),
)
