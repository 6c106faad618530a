# SPDX-License-Identifier: Apache-2.0
"""`Client`: requests to one engine, answers as Python values, error answers as `errdefs` exceptions.

    client = Client(resolve())
    container = client.post_json("/containers/create", {"Image": "busybox"})
    with-less by design: connections are few, live as long as the command, and the kernel closes them.

`call()` keeps one connection alive for questions and answers; `open()` makes a connection of its own for streams
(attach, logs, events, wait), which the caller reads and closes.
"""

from __future__ import annotations

import os

from wharfie.client import jsontext
from wharfie.client.connect import connect
from wharfie.client.http import Connection, Response
from wharfie.errdefs import (
    Conflict,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unsupported,
    WharfieError,
    from_code,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from wharfie.client.address import Address

_BY_STATUS = {
    400: InvalidArgument, 401: Unauthenticated, 403: PermissionDenied, 404: NotFound, 409: Conflict,
    412: FailedPrecondition, 500: Internal, 501: Unsupported, 503: Unavailable,
}  # fmt: skip


class Client:
    """One engine. `headers` go with every request (namespace, debugging); `timings` collects what the engine reports."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.headers: list[tuple[str, str]] = []
        self.timings: list[str] = []
        version = os.environ.get("DOCKER_API_VERSION", "")
        self.prefix = f"/v{version.removeprefix('v')}" if version else ""
        """Without a version in the path an engine answers in its newest: no round trip to negotiate one."""
        self.server_version = ""
        self._main: Connection | None = None

    def connection(self) -> Connection:
        return Connection(connect(self.address), self.address.host or "wharfie")

    def call(
        self,
        method: str,
        target: str,
        *,
        json: object = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Iterable[tuple[str, str]] = (),
        content_type: str = "application/json",
    ) -> Response:
        """One exchange on the shared connection; the body of the answer must be read before the next call."""
        if self._main is None:
            self._main = self.connection()
        if json is not None:
            body = jsontext.dumps(json).encode()
        self._main.send(method, self.prefix + target, headers=[*self.headers, *headers], body=body, content_type=content_type)  # fmt: skip
        response = self._answer(self._main)
        if response.headers.get("connection", "").lower() == "close":
            self._main = None
        return response

    def open(
        self,
        method: str,
        target: str,
        *,
        json: object = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Iterable[tuple[str, str]] = (),
        content_type: str = "application/json",
    ) -> Response:
        """The same on a connection of its own."""
        connection = self.begin(method, target, json=json, body=body, headers=headers, content_type=content_type)
        return self.finish(connection)

    def begin(
        self,
        method: str,
        target: str,
        *,
        json: object = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Iterable[tuple[str, str]] = (),
        content_type: str = "application/json",
    ) -> Connection:
        """Send only, so that several requests can be under way at once; `finish()` reads the answer's head."""
        connection = self.connection()
        if json is not None:
            body = jsontext.dumps(json).encode()
        connection.send(method, self.prefix + target, headers=[*self.headers, *headers], body=body, content_type=content_type)  # fmt: skip
        return connection

    def finish(self, connection: Connection) -> Response:
        return self._answer(connection)

    def _answer(self, connection: Connection) -> Response:
        response = connection.receive()
        headers = response.headers
        self.server_version = headers.get("api-version", self.server_version)
        if timing := headers.get("wharfie-timing"):
            self.timings.append(f"{connection.request}: {timing}")
        if response.status >= 400:
            raise error_of(response)
        return response

    def get_json(self, target: str) -> Any:
        return self.json_of(self.call("GET", target))

    def post_json(self, target: str, json: object = None) -> Any:
        return self.json_of(self.call("POST", target, json=json))

    def do(self, method: str, target: str, *, json: object = None) -> Response:
        """A call whose answer has nothing to say but its status."""
        response = self.call(method, target, json=json)
        response.discard()
        return response

    @staticmethod
    def json_of(response: Response) -> Any:
        data = response.read()
        return jsontext.loads(data) if data.strip() else None

    def close(self) -> None:
        if self._main is not None:
            self._main.close()
            self._main = None


def error_of(response: Response) -> WharfieError:
    """The exception that an error answer stands for: by `code` where the engine sends one, else by status."""
    raw = response.read()
    message, hint, code = "", None, ""
    fields: dict[str, Any] = {"status": response.status}
    try:
        body = jsontext.loads(raw)
    except ValueError:
        body = None
    if isinstance(body, dict):
        message = str(body.get("message") or "")
        hint = body.get("hint") or None
        if hint:  # other clients print only the message, so wharfied repeats it there
            message = message.removesuffix(f"\n{hint}")
        code = str(body.get("code") or "")
        fields.update(body.get("fields") or {})
    message = message.strip() or raw.decode("utf-8", "replace").strip() or f"the engine answers with status {response.status}"  # fmt: skip
    if code:
        return from_code(code, message, hint=hint, **fields)
    return _BY_STATUS.get(response.status, WharfieError)(message, hint=hint, **fields)


def values(chunks: Iterable[bytes]) -> Iterator[Any]:
    """The JSON values of a stream, as each becomes complete (progress, events, stats)."""
    data = b""
    for chunk in chunks:
        data += chunk
        lines = data.split(b"\n")
        data = lines.pop()
        for line in lines:
            if line.strip():
                yield jsontext.loads(line)
        if data.endswith(b"}"):  # stats and some proxies send no line ends
            try:
                value = jsontext.loads(data)
            except ValueError:
                continue
            data = b""
            yield value
    if data.strip():
        yield jsontext.loads(data)
