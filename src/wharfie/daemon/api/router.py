# SPDX-License-Identifier: Apache-2.0
"""Routes: method + path (+ optional `/v1.NN`) -> handler, and what a handler gets.

`{name}` matches one path segment, `{name:path}` the rest, slashes included (image names); a route without a parameter
wins over one with, a longer fixed tail over a shorter one. The namespace comes from the header `Wharfie-Namespace`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import msgspec
from aiohttp import web

from wharfie.daemon.state import DEFAULT_NAMESPACE, Engine
from wharfie.errdefs import InvalidArgument, NotFound, ResourceExhausted

if TYPE_CHECKING:
    from multidict import MultiMapping

API_VERSION = (1, 51)
MIN_API_VERSION = (1, 24)

Handler = Callable[["Call"], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """`streaming`: the handler ends when its client goes (pull, events, wait); others run to their end regardless.

    `since`: first API version that has it.
    """

    method: str
    path: str
    handler: Handler
    streaming: bool = False
    since: tuple[int, int] = MIN_API_VERSION


_NAMESPACE = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*\Z")
_VERSIONED = re.compile(r"/v(\d{1,3})\.(\d{1,3})(/.*)\Z")
_TRUE = frozenset({"1", "true", "True", "t", "T", "TRUE", "yes"})
_FALSE = frozenset({"", "0", "false", "False", "f", "F", "FALSE", "no", "none"})


class Call:
    """One request on its way through a handler."""

    __slots__ = ("_phase_start", "engine", "namespace", "params", "phases", "request", "version")

    def __init__(
        self,
        engine: Engine,
        request: web.BaseRequest,
        namespace: str,
        version: tuple[int, int],
        params: Mapping[str, str],
    ) -> None:
        self.engine, self.request, self.namespace, self.version, self.params = (
            engine,
            request,
            namespace,
            version,
            params,
        )
        self.phases: list[tuple[str, float]] | None = None
        self._phase_start = 0.0
        if request.headers.get("Wharfie-Debug") == "timing":
            self.phases = []
            self._phase_start = time.perf_counter()

    @property
    def query(self) -> MultiMapping[str]:
        return self.request.rel_url.query

    def text(self, name: str, default: str = "") -> str:
        return self.request.rel_url.query.get(name, default)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A boolean query parameter. Raises InvalidArgument."""
        value = self.request.rel_url.query.get(name)
        if value is None:
            return default
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise InvalidArgument(f"read query parameter {name!r}: {value!r} is not a boolean")

    def number(self, name: str, default: int | None = None) -> int | None:
        """An integer query parameter. Raises InvalidArgument."""
        value = self.request.rel_url.query.get(name)
        if value is None or value == "":
            return default
        try:
            return int(value)
        except ValueError:
            raise InvalidArgument(f"read query parameter {name!r}: {value!r} is not a number") from None

    def filters(self, known: Iterable[str]) -> dict[str, list[str]]:
        """The `filters` parameter: {key: [value…]}, or the old {key: {value: true}}. Raises InvalidArgument."""
        raw = self.request.rel_url.query.get("filters")
        if not raw:
            return {}
        try:
            document = msgspec.json.decode(raw, type=dict[str, dict[str, bool] | list[str]])
        except (msgspec.DecodeError, msgspec.ValidationError) as e:
            raise InvalidArgument(f"read query parameter 'filters': {e}") from e
        names = frozenset(known)
        for key in document:
            if key not in names:
                raise InvalidArgument(f"invalid filter {key!r}", hint=f"one of {', '.join(sorted(names))}")
        return {k: list(v) for k, v in document.items()}

    async def body(self) -> bytes:
        """The whole body, bounded by the configuration. Raises ResourceExhausted (413)."""
        limit = self.engine.config.max_request_body
        if not self.request.can_read_body:
            return b""
        chunks: list[bytes] = []
        size = 0
        async for chunk in self.request.content.iter_any():
            size += len(chunk)
            if size > limit:
                raise ResourceExhausted(
                    f"read request: its body has more than {limit} bytes",
                    hint="max_request_body of the configuration sets the limit",
                    http_status=413,
                )
            chunks.append(chunk)
        return b"".join(chunks)

    def phase(self, name: str) -> None:
        """Note that the phase `name` ended now (header Wharfie-Timing)."""
        if self.phases is not None:
            now = time.perf_counter()
            self.phases.append((name, (now - self._phase_start) * 1000))
            self._phase_start = now

    def headers(self) -> dict[str, str]:
        """Headers that every answer carries."""
        headers = {"Api-Version": API_VERSION_TEXT, "Ostype": "linux", "Server": "Wharfie"}
        if self.phases is not None:
            self.phase("rest")
            headers["Wharfie-Timing"] = ",".join(f"{name}={ms:.2f}" for name, ms in self.phases)
        return headers

    def json(self, value: Any, status: int = 200) -> web.Response:
        return web.Response(
            body=msgspec.json.encode(value), status=status, headers=self.headers(), content_type="application/json"
        )

    def raw_json(self, body: bytes, status: int = 200) -> web.Response:
        """JSON that is encoded already."""
        return web.Response(body=body, status=status, headers=self.headers(), content_type="application/json")

    def empty(self, status: int = 204) -> web.Response:
        return web.Response(status=status, headers=self.headers())

    async def stream(self, content_type: str = "application/json", status: int = 200) -> web.StreamResponse:
        """A chunked answer whose head is on the wire when this returns; then `write` and `write_eof`."""
        response = web.StreamResponse(status=status, headers=self.headers())
        response.content_type = content_type
        await response.prepare(self.request)
        return response


API_VERSION_TEXT = f"{API_VERSION[0]}.{API_VERSION[1]}"
MIN_API_VERSION_TEXT = f"{MIN_API_VERSION[0]}.{MIN_API_VERSION[1]}"


class Match(NamedTuple):
    route: Route
    params: dict[str, str]
    version: tuple[int, int]


class Router:
    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[tuple[str, str], Route] = {}
        self._patterns: dict[str, list[tuple[re.Pattern[str], Route]]] = {}
        with_parameter: list[Route] = []
        for route in routes:
            if "{" in route.path:
                with_parameter.append(route)
            else:
                self._fixed[route.method, route.path] = route
        # Routes with a fixed tail first: "/images/{name:path}/json" before "/images/{name:path}".
        with_parameter.sort(key=lambda r: (r.path.endswith("}"), -len(r.path)))
        for route in with_parameter:
            expression = re.sub(r"\{(\w+):path\}", r"(?P<\1>.+)", route.path)
            expression = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", expression)
            self._patterns.setdefault(route.method, []).append((re.compile(expression + r"\Z"), route))

    def match(self, method: str, raw_path: str) -> Match:
        """Raises NotFound (no such page), InvalidArgument (API version)."""
        path, version = raw_path, API_VERSION
        versioned = _VERSIONED.match(raw_path)
        if versioned is not None:
            version = (int(versioned[1]), int(versioned[2]))
            path = versioned[3]
            _check_version(version)
        route = self._fixed.get((method, path))
        if route is not None:
            return Match(route, {}, version)
        if method == "HEAD" and ("GET", path) in self._fixed:
            return Match(self._fixed["GET", path], {}, version)
        for pattern, route in self._patterns.get(method, ()):
            found = pattern.match(path)
            if found is not None:
                return Match(route, {k: unquote(v) for k, v in found.groupdict().items()}, version)
        raise NotFound(f"page not found: {method} {path}")


def _check_version(version: tuple[int, int]) -> None:
    asked = f"{version[0]}.{version[1]}"
    if version < MIN_API_VERSION:
        raise InvalidArgument(
            f"client version {asked} is too old. Minimum supported API version is {MIN_API_VERSION_TEXT},"
            " please upgrade your client to a newer version"
        )
    if version[0] != API_VERSION[0] or version[1] > 99:
        raise InvalidArgument(
            f"client version {asked} is too new. Maximum supported API version is {API_VERSION_TEXT}",
            hint="set DOCKER_API_VERSION to an older one",
        )


def namespace_of(request: web.BaseRequest) -> str:
    """Raises InvalidArgument."""
    namespace = request.headers.get("Wharfie-Namespace", DEFAULT_NAMESPACE)
    if len(namespace) > 76 or not _NAMESPACE.match(namespace):
        raise InvalidArgument(f"read header Wharfie-Namespace: {namespace[:80]!r} is no namespace's name")
    return namespace
