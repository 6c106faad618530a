# SPDX-License-Identifier: Apache-2.0
"""`/images`: pull, list, inspect, and the rest that clients do with images."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import web

from wharfie.daemon.api.archive import stream_bytes
from wharfie.daemon.api.router import Call, Route
from wharfie.daemon.api.status import as_wharfie
from wharfie.daemon.services import commit, images_archives, images_list, images_pull, images_push, images_remove
from wharfie.daemon.services.archive_pipes import aclosing
from wharfie.daemon.services.credentials import decode_header
from wharfie.daemon.services.images import Images
from wharfie.daemon.services.images_progress import Message, error_message
from wharfie.errdefs import InvalidArgument, Unsupported
from wharfie.spec.digest import is_digest
from wharfie.spec.docker import decode_create
from wharfie.spec.platform import Platform, normalize, parse_platform
from wharfie.spec.reference import Reference, parse_reference


def platform_of(call: Call) -> Platform | None:
    """The `platform` parameter: os/arch/variant, or an OCI platform object. Raises InvalidArgument."""
    text = call.text("platform")
    if not text:
        return None
    if text.startswith("{"):
        try:
            fields = msgspec.json.decode(text, type=dict[str, str | list[str]])
        except (msgspec.DecodeError, msgspec.ValidationError) as e:
            raise InvalidArgument(f"read query parameter 'platform': {e}") from e
        os_, architecture, variant, version = (
            str(fields.get(k, "")) for k in ("os", "architecture", "variant", "os.version")
        )
        return normalize(os_, architecture, variant, version)
    return parse_platform(text)


def reference_of(name: str, tag: str) -> Reference:
    """`fromImage` and `tag` (or a digest in its place). Without any tag the reference has none: all tags are meant."""
    if not tag:
        return parse_reference(name, default_tag=None)
    return parse_reference(f"{name}@{tag}" if is_digest(tag) else f"{name}:{tag}")


async def stream_messages(call: Call, messages: AsyncIterator[Message]) -> web.StreamResponse:
    """Docker's JSON stream. An error before the first message is an HTTP error, a later one the last message."""
    response: web.StreamResponse | None = None
    async with contextlib.aclosing(messages) as source:  # type: ignore[type-var]
        try:
            async for message in source:
                if response is None:
                    response = await call.stream()
                await response.write(msgspec.json.encode(message) + b"\r\n")
        except Exception as e:
            if response is None:
                raise
            await response.write(msgspec.json.encode(error_message(as_wharfie(e))) + b"\r\n")
    if response is None:
        response = await call.stream()
    await response.write_eof()
    return response


async def _create(call: Call) -> web.StreamResponse:
    name, source = call.text("fromImage"), call.text("fromSrc")
    if source:
        return await _import(call, source)
    if not name:
        raise InvalidArgument("create image: neither fromImage nor fromSrc is given")
    reference = reference_of(name, call.text("tag"))
    credentials = decode_header(call.request.headers.get("X-Registry-Auth", ""))
    images: Images = call.engine.images
    return await stream_messages(
        call,
        images_pull.pull(images, call.namespace, reference, platform=platform_of(call), credentials=credentials),
    )


def name_of(call: Call) -> Reference | None:
    """`repo` and `tag`: the name of a new image, if it is to have one. Raises InvalidArgument."""
    repository, tag = call.text("repo"), call.text("tag")
    if not repository:
        return None
    reference = parse_reference(f"{repository}:{tag}" if tag else repository)
    if reference.digest:
        raise InvalidArgument(f"name image {repository!r}: a digest cannot be given, it follows from the content")
    return reference


async def _import(call: Call, source: str) -> web.StreamResponse:
    if source != "-":
        raise Unsupported(
            f"import {source!r}: the engine fetches no URLs", hint="fetch it yourself: curl URL | docker import - NAME"
        )
    new = commit.NewImage(name_of(call), call.text("message"), changes=call.query.getall("changes", []))
    digest = await commit.import_image(call.engine, call.namespace, call.request.content, new, platform_of(call))
    response = await call.stream()
    await response.write(msgspec.json.encode({"status": digest}) + b"\r\n")
    await response.write_eof()
    return response


async def _commit(call: Call) -> web.StreamResponse:
    container = call.engine.containers.find(call.namespace, call.text("container"))
    body = await call.body()
    new = commit.NewImage(
        name_of(call), call.text("comment"), call.text("author"), changes=call.query.getall("changes", [])
    )
    digest = await commit.commit(
        call.engine,
        container,
        new,
        pause=call.flag("pause", default=True),
        override=decode_create(body) if body.strip() not in {b"", b"null", b"{}"} else None,
    )
    return call.json({"Id": digest}, 201)


async def _changes(call: Call) -> web.StreamResponse:
    container = call.engine.containers.find(call.namespace, call.params["name"])
    return call.raw_json(await commit.changes(call.engine, container))


async def _save(call: Call) -> web.StreamResponse:
    names = [call.params["name"]] if "name" in call.params else call.query.getall("names", [])
    if not names:
        raise InvalidArgument("save images: no name is given")
    chunks = images_archives.save_archive(call.engine.images, call.namespace, names, platform_of(call))
    async with aclosing(chunks):
        return await stream_bytes(call, {}, await anext(chunks), chunks, "application/x-tar")


async def _load(call: Call) -> web.StreamResponse:
    messages = await images_archives.load_archive(
        call.engine.images, call.namespace, call.request.content, platform_of(call)
    )
    response = await call.stream()
    for message in messages:
        await response.write(msgspec.json.encode(message) + b"\r\n")
    await response.write_eof()
    return response


async def _list(call: Call) -> web.StreamResponse:
    filters = call.filters(("before", "dangling", "label", "reference", "since", "until"))
    if call.text("filter"):
        filters.setdefault("reference", []).append(call.text("filter"))
    options = images_list.Options(
        filters=filters,
        all=call.flag("all"),
        shared_size=call.flag("shared-size"),
        manifests=call.flag("manifests"),
        version=call.version,
    )
    found = await call.engine.files(images_list.documents, call.engine.images, call.namespace, options)
    return call.json(found)


async def _inspect(call: Call) -> web.StreamResponse:
    def work() -> dict[str, Any]:
        return images_list.inspect(
            call.engine.images,
            call.namespace,
            call.params["name"],
            platform_of(call),
            call.version,
            manifests=call.flag("manifests"),
        )

    return call.json(await call.engine.files(work))


async def _history(call: Call) -> web.StreamResponse:
    rows = await call.engine.files(
        images_list.history, call.engine.images, call.namespace, call.params["name"], platform_of(call)
    )
    return call.json(rows)


async def _push(call: Call) -> web.StreamResponse:
    reference = reference_of(call.params["name"], call.text("tag"))
    credentials = decode_header(call.request.headers.get("X-Registry-Auth", ""))
    return await stream_messages(
        call,
        images_push.push(
            call.engine.images, call.namespace, reference, platform=platform_of(call), credentials=credentials
        ),
    )


async def _tag(call: Call) -> web.StreamResponse:
    repository = call.text("repo")
    if not repository:
        raise InvalidArgument("tag image: query parameter repo is missing")
    await call.engine.files(
        images_remove.tag, call.engine.images, call.namespace, call.params["name"], repository, call.text("tag")
    )
    return call.empty(201)


async def _remove(call: Call) -> web.StreamResponse:
    if call.query.getall("platforms", []):
        raise Unsupported(
            "remove image: single platforms cannot be removed", hint="remove the image, pull one platform"
        )
    report = await call.engine.files(
        lambda: images_remove.remove(
            call.engine.images,
            call.namespace,
            call.params["name"],
            force=call.flag("force"),
            prune=not call.flag("noprune"),
        )
    )
    return call.json(report)


async def _prune(call: Call) -> web.StreamResponse:
    filters = call.filters(("dangling", "label", "label!", "until"))
    return call.json(await images_remove.prune_and_collect(call.engine.images, call.namespace, filters))


ROUTES = (
    Route("POST", "/images/create", _create, streaming=True),
    Route("GET", "/images/json", _list),
    Route("GET", "/images/get", _save, streaming=True),
    Route("POST", "/images/load", _load, streaming=True),
    Route("POST", "/commit", _commit),
    Route("GET", "/containers/{name}/changes", _changes),
    Route("GET", "/images/{name:path}/get", _save, streaming=True),
    Route("POST", "/images/prune", _prune),
    Route("GET", "/images/{name:path}/json", _inspect),
    Route("GET", "/images/{name:path}/history", _history),
    Route("POST", "/images/{name:path}/push", _push, streaming=True),
    Route("POST", "/images/{name:path}/tag", _tag),
    Route("DELETE", "/images/{name:path}", _remove),
)
