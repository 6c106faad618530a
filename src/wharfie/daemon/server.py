# SPDX-License-Identifier: Apache-2.0
"""The HTTP side: sockets, and one function that takes every request through the router.

aiohttp's low-level server, without its application layer: routing, middlewares and access log cost more than a request
to this engine does. A handler that does not stream is shielded: a client that goes away doesn't undo half a create.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import sys
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from wharfie.daemon.api.router import API_VERSION_TEXT, Call, Router, namespace_of
from wharfie.daemon.api.status import encode_error
from wharfie.daemon.protocol import HttpServer
from wharfie.errdefs import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from wharfie.daemon.state import Engine

_log = logging.getLogger(__name__)

MAX_LINE = 64 << 10
"""Of a request line or header: filters and X-Registry-Auth grow long."""
BACKLOG = 1024


class Server:
    def __init__(self, engine: Engine, router: Router) -> None:
        self._engine, self._router = engine, router
        self._runner: web.ServerRunner | None = None
        self._streaming: set[asyncio.Task[Any]] = set()

    async def open(self, sockets: Sequence[socket.socket]) -> None:
        """Answer on these listening sockets."""
        server = HttpServer(
            self._handle,
            access_log=None,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            auto_decompress=False,
            handler_cancellation=True,
            keepalive_timeout=75.0,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=self._engine.config.shutdown_timeout)
        await self._runner.setup()
        for sock in sockets:
            await web.SockSite(self._runner, sock, backlog=BACKLOG).start()

    async def close(self) -> None:
        """Stop listening, end streams, let other requests come to their end for a while."""
        for task in list(self._streaming):
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            match = self._router.match(request.method, request.rel_url.raw_path)
            call = Call(self._engine, request, namespace_of(request), match.version, match.params)
            if match.route.streaming:
                return await self._stream(match.route.handler(call))
            return await asyncio.shield(asyncio.ensure_future(match.route.handler(call)))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as e:
            status, body = encode_error(e)
            answer = web.Response(
                body=body,
                status=status,
                content_type="application/json",
                headers={"Api-Version": API_VERSION_TEXT, "Server": "Wharfie"},
            )
            if getattr(request.protocol, "behind", None) is not None:
                answer.force_close()  # what the client sent behind a refused upgrade is no request
            return answer

    async def _stream(self, handler: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._streaming.add(task)
        try:
            return await handler
        finally:
            self._streaming.discard(task)


# --- sockets


def _group_id(name: str) -> int | None:
    if sys.platform == "win32":
        return None
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def listen_unix(path: str, group: str) -> socket.socket:
    """A listening socket at `path`, 0660 root:group. Raises FailedPrecondition where somebody answers there."""
    if sys.platform == "win32":
        raise InvalidArgument(f"listen on {path!r}: there are no unix sockets on Windows", hint="use npipe://")
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    if len(os.fsencode(path)) > 107:
        raise InvalidArgument(
            f"listen on {path!r}: a socket's path has at most 107 bytes", hint="choose a shorter --state"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if os.path.lexists(path):
            _remove_stale(path)
        old = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(old)
        gid = _group_id(group)
        if gid is not None:
            os.chown(path, -1, gid)
            os.chmod(path, 0o660)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise FailedPrecondition(f"listen on {path!r}: something that is no socket is there", hint="remove it")
    if sys.platform == "win32":
        return
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    else:
        raise FailedPrecondition(f"listen on {path!r}: another process answers there", hint="stop it first")


def listen_tcp(address: str) -> list[socket.socket]:
    """Listening sockets at `host:port`. Raises InvalidArgument, FailedPrecondition."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or not 0 <= int(port) <= 65535:
        raise InvalidArgument(f"listen on tcp://{address}: it is not address:port", hint="as in tcp://127.0.0.1:2375")
    found = []
    for family, kind, protocol, _, where in socket.getaddrinfo(
        host.strip("[]") or "127.0.0.1", int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
            sock.listen(BACKLOG)
        except OSError as e:
            sock.close()
            raise FailedPrecondition(f"listen on tcp://{address}: {e.strerror}") from e
        sock.setblocking(False)
        found.append(sock)
    loopback = all(s.getsockname()[0] in {"127.0.0.1", "::1"} for s in found)
    if not loopback:
        _log.warning("tcp://%s: whoever reaches this address is root on this host: there is no TLS", address)
    return found


def listen(address: str, group: str) -> list[socket.socket]:
    """Raises InvalidArgument for a kind of address that is not known."""
    kind, _, rest = address.partition("://")
    if kind == "unix" and rest.startswith("/"):
        return [listen_unix(rest, group)]
    if kind == "tcp":
        return listen_tcp(rest)
    raise InvalidArgument(f"listen on {address!r}: unknown kind of address", hint="unix:///path or tcp://address:port")


def activated() -> list[socket.socket]:
    """Sockets that a service manager listens on for us (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    found = []
    for fd in range(3, 3 + count):
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        found.append(sock)
    return found
