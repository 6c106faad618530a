# SPDX-License-Identifier: Apache-2.0
"""Tokens and logins: distribution's token and OAuth2 authentication, and HTTP Basic.

Rules, because a registry chooses where its clients fetch tokens:
- A token server is asked over TLS, unless the registry itself is plain HTTP.
- Credentials go to it only if it is the registry's own host (any port), shares its registrable domain
  (registry.gitlab.com and gitlab.com), or is named by `auth_hosts` in hosts.toml; otherwise it is an error that says so.
- One 401 after fresh credentials is final: a registry that asks again and again gets no second guess.
Spec: https://distribution.github.io/distribution/spec/auth/token/, RFC 9110 section 11.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import threading
import time
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import msgspec

from wharfie.errdefs import DataLoss, FailedPrecondition, Unauthenticated, Unsupported
from wharfie.registry import Credentials
from wharfie.registry.errors import Context, drop, from_answer, quote, redact, unauthenticated
from wharfie.registry.hosts import Host, Tls, example_path, hosts_for
from wharfie.registry.transport import Body, Request, Response, Transport, read_document

MAX_TOKEN_BYTES = 1 << 20
_DEFAULT_LIFE_S = 60.0
_MARGIN_S = 10.0
_PARAM = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|\Z)')
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9_-]*)(?:\s+|\Z)(?!=)")
_TOKEN = re.compile(r"[\x21-\x7e]+\Z")


class Challenge(NamedTuple):
    scheme: str
    params: dict[str, str]


class LoginResult(NamedTuple):
    """`identity_token` is to be stored instead of the password where it is not empty."""

    status: str
    identity_token: str = ""


def parse_challenges(header: str) -> list[Challenge]:
    """Challenges of a WWW-Authenticate header; what is malformed ends the list."""
    found: list[Challenge] = []
    at = 0
    while match := _SCHEME.match(header, at):
        at = match.end()
        params: dict[str, str] = {}
        while param := _PARAM.match(header, at):
            quoted = re.sub(r"\\(.)", r"\1", param[2]) if param[2] is not None else param[3]
            params.setdefault(param[1].lower(), quoted)
            at = param.end()
        found.append(Challenge(match[1].lower(), params))
    return found


class TokenCache:
    """Tokens of one daemon by (realm, service, scope, credentials). In memory only. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[tuple[Any, ...], tuple[str, float]] = {}

    def get(self, key: tuple[Any, ...]) -> str | None:
        with self._lock:
            token, expires = self._tokens.get(key, ("", 0.0))
            return token if expires > time.monotonic() else None

    def put(self, key: tuple[Any, ...], token: str, life_s: float) -> None:
        now = time.monotonic()
        with self._lock:
            self._tokens = {k: v for k, v in self._tokens.items() if v[1] > now}
            self._tokens[key] = (token, now + max(life_s - _MARGIN_S, 1.0))

    def forget(self, key: tuple[Any, ...]) -> None:
        with self._lock:
            self._tokens.pop(key, None)


class Authorizer:
    """Adds Authorization to requests of one host with one set of credentials. Thread-safe."""

    def __init__(self, transport: Transport, cache: TokenCache, host: Host, credentials: Credentials) -> None:
        self._transport = transport
        self._cache = cache
        self._host = host
        self._credentials = credentials if host.own else Credentials()
        self._challenge: Challenge | None = None
        self._lock = threading.Lock()

    def send(
        self, request: Request, context: Context, scopes: tuple[str, ...], cancel: threading.Event | None = None
    ) -> Response:
        """Send `request` with what its host wants to see.

        A 401 is answered once with what it asks for, and once more where the token came from the cache and may be old.
        """
        challenge = self._challenge
        while True:
            value, cached = self._authorization(challenge, context, scopes)
            secret = {**request.secret_headers, "Authorization": value} if value else request.secret_headers
            response = self._transport.send(request._replace(secret_headers=secret), context, cancel)
            if response.status != 401 or (value is not None and not cached):
                return response
            fresh = _answerable(response, context)
            if fresh is None or (fresh.scheme == "basic" and not self._credentials.username):
                return response
            if cached and challenge is not None:
                self._cache.forget(self._key(challenge, scopes))
            drop(response)
            challenge = self._challenge = fresh

    def _authorization(
        self, challenge: Challenge | None, context: Context, scopes: tuple[str, ...]
    ) -> tuple[str | None, bool]:
        """(value of the header or None, whether it is a token from the cache)."""
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}", False
        if challenge is None or (challenge.scheme == "basic" and not self._credentials.username):
            return None, False
        if challenge.scheme == "basic":
            return _basic(self._credentials), False
        token, cached = self._token(challenge, context, scopes)
        return f"Bearer {token}", cached

    def _key(self, challenge: Challenge, scopes: tuple[str, ...]) -> tuple[Any, ...]:
        return (challenge.params.get("realm"), challenge.params.get("service"), scopes, tuple(self._credentials))

    def _token(self, challenge: Challenge, context: Context, scopes: tuple[str, ...]) -> tuple[str, bool]:
        key = self._key(challenge, scopes)
        with self._lock:  # parallel layers wait for one token instead of fetching three
            token = self._cache.get(key)
            if token is not None:
                return token, True
            token, life_s, _ = fetch_token(
                self._transport, self._host, self._credentials, challenge, context=context, scopes=scopes
            )
            self._cache.put(key, token, life_s)
            return token, False


def _answerable(response: Response, context: Context) -> Challenge | None:
    """The challenge of a 401 that we can answer; None where there is none. Raises Unsupported for foreign schemes."""
    challenges = parse_challenges(", ".join(response.headers.getlist("WWW-Authenticate")))
    known = next((c for c in challenges if c.scheme in {"bearer", "basic"}), None)
    if known is None and challenges:
        drop(response)
        names = ", ".join(quote(c.scheme, 20) for c in challenges)
        raise Unsupported(f"{context.operation}: {context.registry} asks for {names}, known are Basic and Bearer")
    return known


def fetch_token(
    transport: Transport,
    host: Host,
    credentials: Credentials,
    challenge: Challenge,
    *,
    context: Context,
    scopes: tuple[str, ...],
) -> tuple[str, float, str]:
    """(token, life in seconds, refresh token or ""). Raises Unauthenticated, FailedPrecondition (realm rules), DataLoss."""
    realm = challenge.params.get("realm", "")
    server = _realm_host(host, credentials, realm, context)
    query: list[tuple[str, str]] = [("service", challenge.params["service"])] if "service" in challenge.params else []
    scope = scopes or ((challenge.params["scope"],) if "scope" in challenge.params else ())
    headers: dict[str, str] = {}
    secret: dict[str, str] = {}
    body: Body = None
    if credentials.identity_token:
        form = [*query, ("scope", " ".join(scope)), ("grant_type", "refresh_token"), ("client_id", "wharfie")]
        body = urlencode([*form, ("refresh_token", credentials.identity_token)]).encode()
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        url, method = realm, "POST"
    else:
        query += [("scope", s) for s in scope]
        if credentials.username:
            query.append(("account", credentials.username))
            secret["Authorization"] = _basic(credentials)
        url, method = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}", "GET"
    response = transport.send(Request(server, method, url, headers, secret, body), context)
    if response.status in {401, 403}:
        drop(response)
        raise unauthenticated(context)
    if response.status != 200:
        raise from_answer(context, response, what=f"no token server at {redact(realm)}")
    return _parse_token(read_document(response, context, realm, MAX_TOKEN_BYTES), context, realm)


def _parse_token(data: bytes, context: Context, realm: str) -> tuple[str, float, str]:
    try:
        document: Any = msgspec.json.decode(data)
        token = document.get("token") or document.get("access_token") or ""
        life_s = float(document.get("expires_in") or _DEFAULT_LIFE_S)
        refresh = document.get("refresh_token") or ""
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, TypeError, ValueError):
        token, life_s, refresh = "", 0.0, ""
    if not (isinstance(token, str) and isinstance(refresh, str) and _TOKEN.match(token)):
        raise DataLoss(f"{context.operation}: the token server {redact(realm)} sends no usable token")
    return token, life_s, refresh


def _realm_host(host: Host, credentials: Credentials, realm: str, context: Context) -> Host:
    """The token server as a Host, if it may be asked at all."""
    parts = urlsplit(realm)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
        raise FailedPrecondition(
            f"{context.operation}: {context.registry} names no usable token server: {quote(realm)!r}"
        )
    if parts.scheme == "http" and host.scheme == "https":
        raise FailedPrecondition(
            f"{context.operation}: {context.registry} wants tokens fetched without TLS from {redact(realm)}"
        )
    own = urlsplit(f"//{host.authority}").hostname or ""
    if credentials and not _same_owner(own, parts.hostname) and parts.hostname not in host.auth_hosts:
        raise FailedPrecondition(
            f"{context.operation}: {context.registry} wants the login sent to another owner's host, {parts.hostname!r}",
            hint=f'if that is right, write auth_hosts = ["{parts.hostname}"] into {context.config}',
        )
    at_home = parts.hostname == own
    return host._replace(
        scheme=parts.scheme, authority=parts.netloc, tls=host.tls if at_home else Tls(),
        headers=host.headers if at_home else (),
    )  # fmt: skip


def _same_owner(a: str, b: str) -> bool:
    """Equal, or names below one registrable domain (two labels; three where the last two are like co.uk)."""
    if a == b:
        return True
    for name in (a, b):
        try:
            ipaddress.ip_address(name)
        except ValueError:
            continue
        return False
    left, right = a.lower().split("."), b.lower().split(".")
    need = 3 if len(left) > 2 and len(left[-1]) == 2 and len(left[-2]) <= 3 else 2
    return len(left) >= need and len(right) >= need and left[-need:] == right[-need:]


def _basic(credentials: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()


def verify(transport: Transport, registry: str, credentials: Credentials) -> LoginResult:
    """Check a login: what `wharfie login` and POST /auth do. Raises Unauthenticated, and what a request can raise."""
    config_dirs = transport.options.config_dirs
    host = next(h for h in reversed(hosts_for(registry, config_dirs, transport.options.insecure)) if h.own)
    user = credentials.username or "a token"
    context = Context(f"log in to {registry!r}", registry, example_path(registry, config_dirs), user)
    request = Request(host, "GET", f"{host.base}/")
    response = transport.send(request, context)
    if response.status == 401:
        challenge = _answerable(response, context)
        drop(response)
        if challenge is None:
            raise Unsupported(f"{context.operation}: it asks for neither Basic nor Bearer")
        refresh = ""
        try:
            if challenge.scheme == "basic":
                value = _basic(credentials)
            else:
                token, _, refresh = fetch_token(transport, host, credentials, challenge, context=context, scopes=())
                value = f"Bearer {token}"
        except Unauthenticated:
            raise _refused(context) from None
        response = transport.send(request._replace(secret_headers={"Authorization": value}), context)
        if response.status == 200:
            drop(response)
            return LoginResult("Login Succeeded", refresh)
        if response.status == 401:
            drop(response)
            raise _refused(context)
    if response.status != 200:
        raise from_answer(context, response, what="no registry (its /v2/ does not exist)")
    drop(response)
    return LoginResult("Login Succeeded")


def _refused(context: Context) -> Unauthenticated:
    return Unauthenticated(
        f"{context.operation} as {context.user!r}: unauthorized: wrong user name or password",
        hint="some registries want an access token in place of the password",
    )
