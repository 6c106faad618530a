# SPDX-License-Identifier: Apache-2.0
"""HTTP to registries: pools, proxies, TLS, redirects, retries. The only module that imports urllib3's pools.

Redirects are followed here and not by urllib3: what may go along depends on the host. Retries cover the request up to
the head of its answer; a body that breaks off is resumed by whoever reads it.
"""

from __future__ import annotations

import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3 import exceptions as u3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import HTTPResponse

from wharfie.errdefs import Cancelled, DataLoss, FailedPrecondition, Unavailable
from wharfie.registry import RegistryOptions
from wharfie.registry.errors import Context, drop, redact, translated
from wharfie.registry.hosts import Host, Tls
from wharfie.registry.proxy import proxy_for

Body = bytes | Callable[[], Iterable[bytes]] | None
"""A request's body; a callable gives it again for every attempt."""

Response = urllib3.BaseHTTPResponse
_MAX_REDIRECTS = 8
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({429, 500, 502, 503, 504})
_log = logging.getLogger("wharfie.registry")


class Request(NamedTuple):
    """One request to a registry. `headers` go to every hop, `secret_headers` to `host` alone."""

    host: Host
    method: str
    url: str
    headers: Mapping[str, str] = {}
    secret_headers: Mapping[str, str] = {}
    body: Body = None
    body_bytes: int | None = None


class Transport:
    """Shared by all repositories of one daemon. Thread-safe."""

    def __init__(self, options: RegistryOptions) -> None:
        self.options = options
        self._lock = threading.Lock()
        self._pools: dict[tuple[Tls, str | None, str], urllib3.PoolManager] = {}
        # urllib3 logs request lines with their queries at debug, and a signed URL is a credential
        logging.getLogger("urllib3").setLevel(logging.INFO)

    def close(self) -> None:
        with self._lock:
            pools, self._pools = self._pools, {}
        for manager in pools.values():
            for key in manager.pools.keys():  # noqa: SIM118 - its container refuses to be iterated
                manager.pools[key].close()
            manager.clear()

    def send(self, request: Request, context: Context, cancel: threading.Event | None = None) -> Response:
        """Send, following redirects and trying again where that can help. The body of the answer is not read yet.

        Any status may come back. A body that a callable gives is sent once: how to begin again is its caller's matter.
        Raises Unavailable, FailedPrecondition (TLS), Cancelled.
        """
        attempt = 0
        patience_s = self.options.max_retry_after_s
        while True:
            attempt += 1
            last = attempt >= self.options.attempts or callable(request.body)
            try:
                response = self._follow(request, context)
            except Unavailable as e:
                if last or (attempt > 1 and e.fields.get("settled")):
                    raise
                delay_s = self._backoff(attempt)
            else:
                if last or response.status not in _BUSY:
                    return response
                delay_s = self._retry_after(response) or self._backoff(attempt)
                patience_s -= delay_s
                if patience_s < 0:
                    return response
                drop(response)
            _log.debug(
                "retry method=%s url=%s attempt=%d delay_s=%.2f", request.method, redact(request.url), attempt, delay_s
            )
            wait(delay_s, cancel, context)

    def _follow(self, request: Request, context: Context) -> Response:
        hop = request
        for _ in range(_MAX_REDIRECTS):
            response = self._once(hop, context)
            if response.status not in _REDIRECTS or "Location" not in response.headers:
                return response
            target = urljoin(hop.url, response.headers["Location"])
            drop(response)
            scheme = urlsplit(target).scheme
            if scheme not in {"http", "https"} or (urlsplit(hop.url).scheme == "https" and scheme != "https"):
                raise FailedPrecondition(
                    f"{context.operation}: {redact(hop.url)} redirects to {redact(target)}, which is not safe"
                )
            if response.status == 303:
                hop = hop._replace(method="GET", body=None)
            hop = hop._replace(url=target)
        raise FailedPrecondition(f"{context.operation}: {redact(request.url)} redirects in a loop")

    def _once(self, hop: Request, context: Context) -> Response:
        """One request, without looking at the answer. Secrets go only where the registry's own host is."""
        at_home = same_origin(hop.url, hop.host)
        headers = {"User-Agent": self.options.user_agent, "Accept-Encoding": "identity", **hop.headers}
        if at_home:
            headers |= dict(hop.host.headers) | dict(hop.secret_headers)
        proxy = proxy_for(hop.url, self.options.environ)
        payload = hop.body() if callable(hop.body) else hop.body
        if payload is not None and hop.body_bytes is not None:
            headers["Content-Length"] = str(hop.body_bytes)
        with translated(context, hop.url, proxy):
            return self._pool(hop.host.tls if at_home else Tls(), proxy, urlsplit(hop.url).scheme, context).urlopen(
                hop.method,
                hop.url,
                redirect=False,
                retries=False,
                headers=headers,
                body=payload,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(
                    connect=hop.host.connect_timeout_s or self.options.connect_timeout_s,
                    read=self.options.read_timeout_s,
                ),
            )

    def _pool(self, tls: Tls, proxy: str | None, scheme: str, context: Context) -> urllib3.PoolManager:
        key = (tls, proxy, scheme)
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                ssl_context = _ssl_context(tls, context) if scheme == "https" else None
                settings = {"num_pools": 64, "maxsize": 16, "ssl_context": ssl_context}
                if proxy:
                    user = urllib3.util.parse_url(proxy).auth
                    auth = urllib3.make_headers(proxy_basic_auth=user) if user else None
                    pool = urllib3.ProxyManager(proxy, proxy_headers=auth, **settings)  # type: ignore[arg-type]
                else:
                    pool = urllib3.PoolManager(**settings)  # type: ignore[arg-type]
                pool.pool_classes_by_scheme = _pool_classes(self.options.header_timeout_s)
                self._pools[key] = pool
            return pool

    def _backoff(self, attempt: int) -> float:
        return float(self.options.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))

    def _retry_after(self, response: Response) -> float | None:
        """Retry-After in seconds; a date, which is rare, counts as longer than anybody waits."""
        text = response.headers.get("Retry-After", "")
        if not text:
            return None
        return float(text[:20]) if text.isascii() and text.isdigit() else float("inf")


def same_origin(url: str, host: Host) -> bool:
    parts = urlsplit(url)
    port = {"http": 80, "https": 443}.get(parts.scheme)
    own = urlsplit(f"{host.scheme}://{host.authority}")
    return (parts.scheme, parts.hostname, parts.port or port) == (own.scheme, own.hostname, own.port or port)


def wait(delay_s: float, cancel: threading.Event | None, context: Context) -> None:
    """Sleep that a cancel ends. Raises Cancelled."""
    if cancel is None:
        time.sleep(delay_s)
    elif cancel.wait(delay_s):
        raise Cancelled(f"{context.operation}: cancelled")


def read_document(response: Response, context: Context, url: str, max_bytes: int) -> bytes:
    """The whole body of a small answer. Raises DataLoss where it is larger than `max_bytes`."""
    try:
        with translated(context, url):
            data = response.read(max_bytes + 1, decode_content=False)
    except BaseException:
        response.close()
        raise
    if len(data) > max_bytes:
        response.close()
        raise DataLoss(f"{context.operation}: {redact(url)} sends more than the {max_bytes} bytes that are accepted")
    response.release_conn()
    return data


def _ssl_context(tls: Tls, context: Context) -> ssl.SSLContext:
    ctx = ssl.create_default_context()
    try:
        for path in tls.ca:
            ctx.load_verify_locations(path)
        for certificate, key in tls.client:
            ctx.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as e:
        raise FailedPrecondition(
            f"{context.operation}: read certificates {', '.join((*tls.ca, *(c for c, _ in tls.client)))}: {e}",
            hint=f"see {context.config}",
        ) from e
    if tls.skip_verify:
        _log.warning("certificates of %s are not verified, as %s says", context.registry, context.config)
        ctx.check_hostname = False
        ctx.verify_mode = ssl.CERT_NONE
    return ctx


def _pool_classes(header_timeout_s: float) -> dict[str, type[HTTPConnectionPool]]:
    """Pools whose connections give up on an answer whose head trickles in: each byte is in time, the whole is not."""

    class Plain(HTTPConnection):
        def getresponse(self) -> HTTPResponse:  # type: ignore[override]
            with _deadline(self.sock, header_timeout_s):
                return super().getresponse()

    class Secure(HTTPSConnection):
        def getresponse(self) -> HTTPResponse:  # type: ignore[override]
            with _deadline(self.sock, header_timeout_s):
                return super().getresponse()

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

        def _validate_conn(self, conn: Any) -> None:
            """Without urllib3's warning: `skip_verify` is what hosts.toml says, and each request would warn again."""
            if conn.is_closed:
                conn.connect()

    return {"http": PlainPool, "https": SecurePool}


class _Watchdog(threading.Thread):
    """One thread that shuts down sockets whose time is over. Started with the first request."""

    def __init__(self) -> None:
        super().__init__(name="registry-watchdog", daemon=True)
        self.changed = threading.Condition()
        self.due: dict[socket.socket, float] = {}

    def run(self) -> None:
        with self.changed:
            while True:
                now = time.monotonic()
                for sock in [s for s, at in self.due.items() if at <= now]:
                    del self.due[sock]
                    try:
                        sock.shutdown(socket.SHUT_RDWR)
                    except OSError as e:
                        _log.debug("shutdown of a late connection: %s", e)
                self.changed.wait(min(self.due.values()) - now if self.due else None)


_watchdog: _Watchdog | None = None
_watchdog_lock = threading.Lock()


class _deadline:  # noqa: N801
    """Context: `sock` is shut down unless the block ends within `timeout_s`."""

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        global _watchdog
        with _watchdog_lock:
            if _watchdog is None:
                _watchdog = _Watchdog()
                _watchdog.start()
            self._watchdog = _watchdog
        self._sock = sock
        self._timeout_s = timeout_s

    def __enter__(self) -> None:
        with self._watchdog.changed:
            due = time.monotonic() + self._timeout_s
            if due < min(self._watchdog.due.values(), default=due + 1):
                self._watchdog.changed.notify()
            self._watchdog.due[self._sock] = due

    def __exit__(self, *_: object) -> None:
        with self._watchdog.changed:
            late = self._watchdog.due.pop(self._sock, None) is None
        if late:
            raise u3.ReadTimeoutError(None, "", "the head of the answer took too long")  # type: ignore[arg-type]
