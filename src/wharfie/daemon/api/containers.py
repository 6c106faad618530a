# SPDX-License-Identifier: Apache-2.0
"""`/containers`: create, list, inspect, life, wait, remove, prune. Streams are in `containers_streams`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from wharfie.daemon.api import containers_documents as documents
from wharfie.daemon.api import containers_filters, containers_streams
from wharfie.daemon.api.router import Call, Route
from wharfie.daemon.services import containers_records as records
from wharfie.daemon.services import containers_remove
from wharfie.daemon.services.container import WAIT_NEXT_EXIT, WAIT_NOT_RUNNING, WAIT_REMOVED, Container
from wharfie.errdefs import InvalidArgument, WharfieError
from wharfie.spec.docker import decode_create, decode_update
from wharfie.spec.platform import parse_platform

if TYPE_CHECKING:
    from wharfie.daemon.services.containers import Containers


def container_of(call: Call) -> Container:
    """Raises NotFound."""
    return call.engine.containers.find(call.namespace, call.params["name"])


async def _create(call: Call) -> web.StreamResponse:
    body = decode_create(await call.body())
    platform = call.text("platform")
    container, warnings = await call.engine.containers.create(
        call.namespace, call.text("name"), body, parse_platform(platform) if platform else None, call=call
    )
    return call.json({"Id": container.id, "Warnings": warnings}, 201)


async def _list(call: Call) -> web.StreamResponse:
    cs: Containers = call.engine.containers
    filters = call.filters(containers_filters.LIST_FILTERS)
    tests = containers_filters.list_tests(cs, call.namespace, filters)
    limit = call.number("limit")
    everything = call.flag("all") or bool(limit and limit > 0) or bool({"status", "exited"} & filters.keys())
    found = [
        c
        for c in cs.all(call.namespace)
        if (everything or c.state.status in {records.RUNNING, records.PAUSED, records.RESTARTING})
        and all(test(c) for test in tests)
    ]
    found.sort(key=lambda c: c.created_ns, reverse=True)
    if limit and limit > 0:
        found = found[:limit]
    now_s = documents.now()
    rows = [documents.summary_document(c, now_s) for c in found]
    if call.flag("size"):
        for row, container in zip(rows, found, strict=True):
            row |= await _sizes(cs, container)
    return call.json(rows)


async def _sizes(cs: Containers, container: Container) -> dict[str, int]:
    snapshotter = cs.snapshotter_of(container)

    def measure() -> tuple[int, int]:
        own = snapshotter.usage(container.snapshot_key).size_bytes
        total, name = own, snapshotter.stat(container.snapshot_key).parent
        while name is not None:
            total += snapshotter.usage(name).size_bytes
            name = snapshotter.stat(name).parent
        return own, total

    try:
        own, total = await cs.engine.background(measure)
    except WharfieError:
        return {"SizeRw": 0, "SizeRootFs": 0}
    return {"SizeRw": own, "SizeRootFs": total}


async def _inspect(call: Call) -> web.StreamResponse:
    container = container_of(call)
    cs = call.engine.containers
    document = documents.inspect_document(cs, container)
    if call.flag("size"):
        document |= await _sizes(cs, container)
    return call.json(document)


async def _start(call: Call) -> web.StreamResponse:
    started = await call.engine.containers.run.start(container_of(call), call)
    return call.empty(204 if started else 304)


def _timeout(call: Call) -> int | None:
    return call.number("t")


async def _stop(call: Call) -> web.StreamResponse:
    stopped = await call.engine.containers.run.stop(container_of(call), _timeout(call), call.text("signal"))
    return call.empty(204 if stopped else 304)


async def _restart(call: Call) -> web.StreamResponse:
    await call.engine.containers.run.restart(container_of(call), _timeout(call), call.text("signal"))
    return call.empty()


async def _kill(call: Call) -> web.StreamResponse:
    await call.engine.containers.run.kill(container_of(call), call.text("signal"))
    return call.empty()


async def _pause(call: Call) -> web.StreamResponse:
    await call.engine.containers.run.pause(container_of(call))
    return call.empty()


async def _unpause(call: Call) -> web.StreamResponse:
    await call.engine.containers.run.unpause(container_of(call))
    return call.empty()


async def _rename(call: Call) -> web.StreamResponse:
    await call.engine.containers.rename(container_of(call), call.text("name"))
    return call.empty()


async def _update(call: Call) -> web.StreamResponse:
    body = decode_update(await call.body())
    return call.json({"Warnings": await call.engine.containers.update(container_of(call), body)})


async def _remove(call: Call) -> web.StreamResponse:
    if call.flag("link"):
        raise InvalidArgument("remove link: containers have no links here")
    await call.engine.containers.remove(container_of(call), force=call.flag("force"), volumes=call.flag("v"))
    return call.empty()


async def _prune(call: Call) -> web.StreamResponse:
    test = containers_filters.prune_test(call.filters(containers_filters.PRUNE_FILTERS))
    removed, freed = await containers_remove.prune(call.engine.containers, call.namespace, test)
    return call.json({"ContainersDeleted": removed or None, "SpaceReclaimed": freed})


async def _wait(call: Call) -> web.StreamResponse:
    """The head goes out at once: clients wait for it before they start the container."""
    container = container_of(call)
    condition = call.text("condition") or WAIT_NOT_RUNNING
    if condition not in {WAIT_NOT_RUNNING, WAIT_NEXT_EXIT, WAIT_REMOVED}:
        raise InvalidArgument(f"invalid condition: {condition!r}", hint="not-running, next-exit or removed")
    ended_now = (
        condition == WAIT_NOT_RUNNING
        and not container.state.alive
        and container.state.status != records.RESTARTING
        and not container.starting
        # A client that attached first is about to start it; Docker's answers at once too if nobody has.
    )
    waiter = None if ended_now else container.waiter(condition)
    try:
        response = await call.stream()
        exit_ = container.exit if waiter is None else await waiter
    finally:
        if waiter is not None:
            waiter.cancel()
    # Never an "Error" beside it: clients would take it for a failure of the wait and end with 125.
    with contextlib.suppress(ConnectionError):
        await response.write(b'{"StatusCode":%d}\n' % exit_.code)
        await response.write_eof()
    return response


ROUTES = (
    Route("POST", "/containers/create", _create),
    Route("GET", "/containers/json", _list),
    Route("POST", "/containers/prune", _prune),
    Route("GET", "/containers/{name}/json", _inspect),
    Route("POST", "/containers/{name}/start", _start),
    Route("POST", "/containers/{name}/stop", _stop),
    Route("POST", "/containers/{name}/restart", _restart),
    Route("POST", "/containers/{name}/kill", _kill),
    Route("POST", "/containers/{name}/pause", _pause),
    Route("POST", "/containers/{name}/unpause", _unpause),
    Route("POST", "/containers/{name}/rename", _rename),
    Route("POST", "/containers/{name}/update", _update),
    Route("POST", "/containers/{name}/wait", _wait, streaming=True),
    Route("DELETE", "/containers/{name}", _remove),
    *containers_streams.ROUTES,
)
