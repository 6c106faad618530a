# SPDX-License-Identifier: Apache-2.0
"""A registry that can misbehave: real HTTP on loopback, every answer open to a rule of the test.

`rules` is a list of (predicate-prefix, handler): the first whose method and path prefix match handles the request;
without one, the honest answer is given. What was asked is kept in `seen`.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Seen(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def handle_one(self) -> None:
        registry = self.server.registry
        registry.seen.append(Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        for method, prefix, handler in registry.rules:
            if method in {self.command, "*"} and self.path.startswith(prefix) and handler(self) is not False:
                return
        registry.honest(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_one  # noqa: N815

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """An answer with Content-Length; underscores in header names are dashes. None leaves a header out."""
        self.send_response(status)
        given = {k.replace("_", "-"): v for k, v in headers.items()}
        given.setdefault("Content-Length", str(len(body)))
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(2)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    registry: HostileRegistry

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients hang up on us on purpose


Handler = Callable[[Answer], object]


class HostileRegistry:
    def __init__(self, *, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> None:
        self.server = _Server((address, 0), Answer)
        self.server.registry = self
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.host = f"{address}:{self.port}"
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.rules: list[tuple[str, str, Handler]] = []
        self.seen: list[Seen] = []
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def add(self, image: object, name: str = "t/x", tag: str = "latest") -> str:
        for blob in (*image.blobs, image.config_blob):  # type: ignore[attr-defined]
            self.blobs[digest(blob)] = blob
        self.add_manifest(image.manifest, OCI_MANIFEST, tag)  # type: ignore[attr-defined]
        return f"{self.host}/{name}:{tag}"

    def add_manifest(self, data: bytes, media_type: str, tag: str) -> None:
        self.manifests[tag] = self.manifests[digest(data)] = (media_type, data)

    def rule(self, method: str, prefix: str, handler: Handler) -> None:
        self.rules.append((method, prefix, handler))

    def honest(self, answer: Answer) -> None:
        path = answer.path.partition("?")[0]
        kind, _, last = path.rpartition("/")
        if path == "/v2/":
            answer.reply(200, b"{}")
        elif kind.endswith("/manifests") and last in self.manifests:
            media_type, data = self.manifests[last]
            answer.reply(200, data, Content_Type=media_type, Docker_Content_Digest=digest(data))
        elif kind.endswith("/blobs") and last in self.blobs:
            self.send_blob(answer, self.blobs[last])
        else:
            answer.reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')

    @staticmethod
    def send_blob(answer: Answer, data: bytes) -> None:
        wanted = answer.headers.get("Range", "")
        if wanted:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            answer.reply(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            answer.reply(200, data)

    def asked(self, method: str, part: str) -> list[Seen]:
        return [s for s in self.seen if s.method == method and part in s.path]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
