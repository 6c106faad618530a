# SPDX-License-Identifier: Apache-2.0
"""`/distribution/{name}/json`: what a registry has under a name, without pulling it. And `/images/search`."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from wharfie.daemon.api.router import Call, Route
from wharfie.daemon.services.credentials import decode_header
from wharfie.daemon.services.images import Images
from wharfie.errdefs import Unsupported
from wharfie.images.walk import is_attestation, parse_config, parse_index, parse_manifest
from wharfie.registry import Credentials
from wharfie.spec.image import INDEX_TYPES
from wharfie.spec.platform import Platform
from wharfie.spec.reference import Reference, parse_reference


def _platform(platform: Platform) -> dict[str, str]:
    document = {"architecture": platform.architecture, "os": platform.os}
    if platform.os_version:
        document["os.version"] = platform.os_version
    if platform.variant:
        document["variant"] = platform.variant
    return document


def _look(images: Images, reference: Reference, credentials: Credentials | None) -> dict[str, Any]:
    """Blocking. Raises NotFound, Unauthenticated, Unavailable, DataLoss."""
    repository = images.registry.repository(reference, credentials)
    descriptor = repository.resolve()
    data = repository.manifest(descriptor)
    if descriptor.media_type in INDEX_TYPES:
        entries = parse_index(descriptor, data).manifests
        platforms = [e.platform.value() for e in entries if e.platform and not is_attestation(e)]
    else:
        manifest = parse_manifest(descriptor, data)
        platforms = [parse_config(manifest, repository.document(manifest.config)).platform()]
    return {"Descriptor": msgspec.to_builtins(descriptor), "Platforms": [_platform(p) for p in platforms]}


async def _inspect(call: Call) -> web.StreamResponse:
    reference = parse_reference(call.params["name"])
    credentials = decode_header(call.request.headers.get("X-Registry-Auth", ""))
    return call.json(await call.engine.transfer(_look, call.engine.images, reference, credentials))


async def _search(call: Call) -> web.StreamResponse:
    raise Unsupported(
        f"search images for {call.text('term')!r}: the search of Docker Hub is a service of its own, not a registry's",
        hint="look on the registry's web page; `pull` takes any name",
    )


ROUTES = (
    Route("GET", "/distribution/{name:path}/json", _inspect),
    Route("GET", "/images/search", _search),
)
