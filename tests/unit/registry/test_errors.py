# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import ssl

import pytest
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
)
from wharfie.registry.errors import Context, connection_error, from_answer, quote, redact

PULL = Context('pull "r.example/x:1"', "r.example", "/etc/wharfie/certs.d/r.example/hosts.toml")
USER = Context('push "r.example/x:1"', "r.example", "/c", "ann")


def answer(status: int, body: bytes = b"") -> urllib3.HTTPResponse:
    return urllib3.HTTPResponse(io.BytesIO(body), {"Content-Length": str(len(body))}, status, preload_content=False)


@pytest.mark.parametrize(
    ("context", "status", "kind", "says", "hint"),
    [
        (PULL, 401, Unauthenticated, "has no such image, or wants a login", "wharfie login r.example"),
        (USER, 401, Unauthenticated, "does not accept the login of 'ann'", "wharfie login r.example"),
        (PULL, 403, PermissionDenied, "without a login one may not", "wharfie login r.example"),
        (USER, 403, PermissionDenied, "'ann' may not", ""),
        (PULL, 404, NotFound, "no such image in r.example", "spelling"),
        (PULL, 429, ResourceExhausted, "too many requests", "log in for a higher limit"),
        (USER, 429, ResourceExhausted, "too many requests", "wait a while"),
        (PULL, 405, Unsupported, "does not support this", ""),
        (PULL, 500, Unavailable, "answers HTTP 500", ""),
    ],
)
def test_from_answer(context: Context, status: int, kind: type[Exception], says: str, hint: str) -> None:
    error = from_answer(context, answer(status))
    assert type(error) is kind
    assert error.message.startswith(context.operation)
    assert says in error.message
    assert hint in (error.hint or "")


def test_what_the_registry_says_is_shown() -> None:
    body = b'{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}'
    error = from_answer(PULL, answer(400, body))
    assert isinstance(error, PermissionDenied)
    assert error.message.endswith("requested access to the resource is denied")


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"errors":[]}', b'{"errors":5}', b"\xff\xfe", b"<html>", b'{"errors":[3]}']
)
def test_odd_bodies(body: bytes) -> None:
    assert from_answer(PULL, answer(500, body)).message.startswith('pull "r.example/x:1": r.example answers HTTP 500')


def test_plain_http_asked_of_tls() -> None:
    error = from_answer(PULL, answer(400, b"Client sent an HTTP request to an HTTPS server.\n"))
    assert isinstance(error, FailedPrecondition)
    assert 'server = "https://r.example"' in (error.hint or "")


def test_tls_errors_name_the_fix() -> None:
    url = "https://r.example/v2/?token=canary"
    plain = connection_error(
        PULL, url, u3.SSLError(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"))
    )
    assert "speaks plain HTTP" in plain.message
    assert 'server = "http://r.example" into /etc/wharfie/certs.d/r.example/hosts.toml' in (plain.hint or "")
    text = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:992)"
    unknown = connection_error(PULL, url, u3.SSLError(text))
    assert unknown.message.endswith("does not verify: self-signed certificate")
    assert "ca =" in (unknown.hint or "")
    assert "canary" not in plain.full() + unknown.full()


def test_redaction() -> None:
    assert redact("https://u:p@h:1/a/b?sig=x#f") == "https://h:1/a/b"
    assert quote("see https://h/a?sig=x and \x1b[1m" + "y" * 300).startswith("see https://h/a?… and  [1myyy")
    assert len(quote("y" * 300)) == 201
