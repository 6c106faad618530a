# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from wharfie.daemon.api.router import Route, Router
from wharfie.daemon.api.status import as_wharfie, encode_error, error_document, http_status
from wharfie.errdefs import Conflict, Internal, InvalidArgument, NotFound, ResourceExhausted, Unsupported


async def handler(call: object) -> None:
    raise AssertionError


ROUTER = Router(
    Route(method, path, handler)  # type: ignore[arg-type]
    for method, path in (
        ("GET", "/_ping"),
        ("GET", "/containers/json"),
        ("GET", "/containers/{name}/json"),
        ("DELETE", "/containers/{name}"),
        ("GET", "/images/{name:path}/json"),
        ("DELETE", "/images/{name:path}"),
        ("GET", "/images/json"),
    )
)


@pytest.mark.parametrize(
    ("method", "path", "route", "params", "version"),
    [
        ("GET", "/_ping", "/_ping", {}, (1, 51)),
        ("HEAD", "/v1.41/_ping", "/_ping", {}, (1, 41)),
        ("GET", "/v1.24/containers/json", "/containers/json", {}, (1, 24)),
        ("GET", "/containers/json/json", "/containers/{name}/json", {"name": "json"}, (1, 51)),
        ("GET", "/images/json", "/images/json", {}, (1, 51)),
        ("GET", "/images/a.b/c/d:1/json", "/images/{name:path}/json", {"name": "a.b/c/d:1"}, (1, 51)),
        ("DELETE", "/images/a%2Fb", "/images/{name:path}", {"name": "a/b"}, (1, 51)),
        ("DELETE", "/containers/x", "/containers/{name}", {"name": "x"}, (1, 51)),
        ("GET", "/v1.60/containers/json", "/containers/json", {}, (1, 60)),
    ],
)
def test_match(method: str, path: str, route: str, params: dict[str, str], version: tuple[int, int]) -> None:
    found = ROUTER.match(method, path)
    assert (found.route.path, found.params, found.version) == (route, params, version)


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/containers", "/containers//json", "/containers/a/b/json", "/v1.41"]
)
def test_no_such_page(path: str) -> None:
    with pytest.raises(NotFound, match="page not found"):
        ROUTER.match("GET", path)


def test_versions_that_are_not_spoken() -> None:
    with pytest.raises(InvalidArgument, match="too old"):
        ROUTER.match("GET", "/v1.23/containers/json")
    with pytest.raises(InvalidArgument, match="too new"):
        ROUTER.match("GET", "/v2.0/containers/json")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidArgument("x"), 400),
        (NotFound("x"), 404),
        (NotFound("x", http_status=400), 400),
        (Conflict("x"), 409),
        (Unsupported("x"), 501),
        (Internal("x"), 500),
        (ResourceExhausted("x", http_status=413), 413),
    ],
)
def test_status(error: NotFound, status: int) -> None:
    assert http_status(error) == status


def test_error_documents_carry_what_the_client_rebuilds() -> None:
    document = error_document(NotFound("no such thing: x", hint="make it", container_id="c", http_status=400))
    assert document == {
        "message": "no such thing: x\nmake it",
        "code": "NotFoundError",
        "hint": "make it",
        "fields": {"container_id": "c"},
    }
    assert encode_error(Conflict("taken")) == (409, b'{"message":"taken","code":"ConflictError"}')


def test_failures_of_the_host_keep_call_and_object() -> None:
    full = as_wharfie(OSError(28, "No space left on device", "/x"))
    assert isinstance(full, ResourceExhausted)
    assert "/x" in full.message
    missing = as_wharfie(FileNotFoundError(2, "No such file or directory", "/x"))
    assert http_status(missing) == 500, "a file of ours that is missing is no missing container"
    assert encode_error(ValueError("odd"))[0] == 500
