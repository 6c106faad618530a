# SPDX-License-Identifier: Apache-2.0
"""Errors of a registry as people should read them. No token, password or signed query ever gets into a text.

What a registry says about itself is quoted only after it was cut, stripped of control characters and of everything
behind a question mark in a URL (a signed URL is a credential).
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import urllib3
from urllib3 import exceptions as u3

from wharfie.errdefs import (
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unsupported,
    WharfieError,
)

MAX_ERROR_BYTES = 8192
_DRAIN_BYTES = 65536
_QUERY = re.compile(r"\?[^\s\"'<>]*")
_USERINFO = re.compile(r"//[^/\s@]*@")


class Context:
    """What an error should say about the operation under way.

    `operation` is "pull" or the like with its quoted object; `registry` the name users know; `config` the hosts.toml
    that a hint may name; `user` who is logged in, "" for nobody.
    """

    __slots__ = ("config", "operation", "registry", "user")

    def __init__(self, operation: str, registry: str, config: str, user: str = "") -> None:
        self.operation = operation
        self.registry = registry
        self.config = config
        self.user = user


def redact(url: str) -> str:
    """A URL without user info, query and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def quote(text: str, limit: int = 200) -> str:
    """Text of a stranger, fit for an error message."""
    clean = _QUERY.sub("?…", _USERINFO.sub("//", "".join(c if c.isprintable() else " " for c in text)))
    return clean[:limit] + ("…" if len(clean) > limit else "")


def from_answer(context: Context, response: urllib3.BaseHTTPResponse, *, what: str = "") -> WharfieError:
    """The error for an answer that is no success. Reads (a little of) the body."""
    status = response.status
    code, text = _registry_error(response)
    host, operation = context.registry, context.operation
    said = f": {text}" if text else ""
    if status == 401:
        return unauthenticated(context, said)
    if status == 403 or code == "DENIED":
        who = f"{context.user!r} may" if context.user else "without a login one may"
        return PermissionDenied(
            f"{operation}: {host} answers that {who} not{said}",
            hint=None if context.user else f"run: wharfie login {host}",
        )
    if status == 404:
        return NotFound(
            f"{operation}: {what or 'no such image'} in {host}{said}", hint="check the spelling of name and tag"
        )
    if status == 429:
        return ResourceExhausted(
            f"{operation}: {host} answers that there were too many requests{said}",
            hint="wait a while" + ("" if context.user else f", or log in for a higher limit: wharfie login {host}"),
        )
    if status == 400 and "HTTPS server" in text:
        return FailedPrecondition(
            f"{operation}: {host} speaks TLS, it was asked in plain HTTP", hint=_https_hint(context)
        )
    if status in {405, 501} or code == "UNSUPPORTED":
        return Unsupported(f"{operation}: {host} does not support this (HTTP {status}){said}")
    return Unavailable(f"{operation}: {host} answers HTTP {status}{said}")


def unauthenticated(context: Context, said: str = "") -> Unauthenticated:
    """The error for a 401 that no credentials at hand can answer. A registry does not say which of the two it is."""
    host = context.registry
    if context.user:
        return Unauthenticated(
            f"{context.operation}: {host} does not accept the login of {context.user!r}{said}",
            hint=f"run: wharfie login {host}",
        )
    if context.operation.startswith("pull"):
        return Unauthenticated(
            f"{context.operation}: {host} has no such image, or wants a login for it{said}",
            hint=f"check the name; if it is private, run: wharfie login {host}",
        )
    return Unauthenticated(f"{context.operation}: {host} wants a login{said}", hint=f"run: wharfie login {host}")


def drop(response: urllib3.BaseHTTPResponse) -> None:
    """Let go of an answer whose body (or the rest of it) is of no interest; keep the connection where that is cheap.

    Not `close()`: for an answer without a body it neither closes the connection nor gives it back.
    """
    left = response.length_remaining
    try:
        if left is not None and left <= _DRAIN_BYTES:
            response.read(decode_content=False)
        else:
            response.close()
    except (u3.HTTPError, OSError):
        response.close()
    response.release_conn()


def _registry_error(response: urllib3.BaseHTTPResponse) -> tuple[str, str]:
    try:
        body = response.read(MAX_ERROR_BYTES, decode_content=False) or b""
    except (u3.HTTPError, OSError):
        return "", ""
    finally:
        drop(response)
    try:
        document: Any = msgspec.json.decode(body)
        error = document["errors"][0]
        code, message = str(error.get("code", "")), str(error.get("message", ""))
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        text = body.decode(errors="replace").strip()
        return "", "" if text.startswith(("<", "{")) else quote(text)
    return code, quote(message)


def _https_hint(context: Context) -> str:
    return f'write server = "https://{context.registry}" into {context.config}'


@contextmanager
def translated(context: Context, url: str, proxy: str | None = None) -> Iterator[None]:
    """Turn what urllib3 raises into errors of ours; the cause is dropped, as its text has the URL with its query."""
    try:
        yield
    except (u3.HTTPError, OSError) as e:
        raise connection_error(context, url, e, proxy) from None


def connection_error(context: Context, url: str, error: Exception, proxy: str | None = None) -> WharfieError:
    """The error for a request without an answer. Its field `settled` says that trying more than twice is no use."""
    host = urlsplit(url).netloc.rpartition("@")[2]
    where = f"{context.operation}: {host}"
    if proxy and isinstance(error, u3.ProxyError):
        return Unavailable(
            f"{where}: the proxy {redact(proxy)} does not connect: {_reason(error.original_error)}",
            hint="see HTTPS_PROXY and NO_PROXY in the daemon's environment",
        )
    if isinstance(error, u3.SSLError | ssl.SSLError):
        return _tls_error(context, where, str(error))
    if isinstance(error, u3.NameResolutionError):
        hint = "check the registry's name, DNS and network"
        return Unavailable(f"{where}: its name does not resolve", hint=hint, settled=True)
    if isinstance(error, u3.NewConnectionError):
        return Unavailable(f"{where}: {_reason(error)}", hint="is the registry running there?", settled=True)
    if isinstance(error, u3.ConnectTimeoutError):
        hint = "is the registry up, and the way through the firewall open?"
        return Unavailable(f"{where}: no answer to the connection request", hint=hint, settled=True)
    if isinstance(error, u3.TimeoutError | TimeoutError):
        return Unavailable(f"{where}: it stopped answering")
    return Unavailable(f"{where}: connection lost: {_reason(error)}")


def _tls_error(context: Context, where: str, text: str) -> WharfieError:
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or "not trusted"
        return FailedPrecondition(
            f"{where}: its certificate does not verify: {quote(why)}",
            hint=f'if it has a CA of its own, write server = "https://{context.registry}" and ca = "/path/ca.pem" into {context.config}',
        )
    if any(
        t in text
        for t in (
            "WRONG_VERSION_NUMBER",
            "wrong version number",
            "HTTP_REQUEST",
            "RECORD_LAYER_FAILURE",
            "record layer failure",
        )
    ):
        return FailedPrecondition(
            f"{where}: it speaks plain HTTP, not TLS",
            hint=f'if you trust the network between, write server = "http://{context.registry}" into {context.config}',
        )
    return FailedPrecondition(f"{where}: TLS: {quote(text.partition('(_ssl')[0].strip('( '))}")


def _reason(error: BaseException | None) -> str:
    while error is not None:
        if isinstance(error, OSError) and error.strerror and not isinstance(error, socket.gaierror):
            return error.strerror.lower()
        error = error.__cause__ or error.__context__
    return "the peer closed it"
