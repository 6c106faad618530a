# SPDX-License-Identifier: Apache-2.0
"""Error codes -> HTTP, once for the whole API (style: 2.4).

The body is Docker's `{"message": …}`, where the hint is a second line because other clients print only the message,
plus `code`, `hint` and `fields` for our own client, which rebuilds the error from them.
"""

from __future__ import annotations

import errno
import logging
from typing import Any

import msgspec

from wharfie.errdefs import Internal, NotFound, PermissionDenied, ResourceExhausted, WharfieError

_log = logging.getLogger("wharfie.daemon.api")

_STATUS = {
    "InvalidArgumentError": 400,
    "OutOfRangeError": 400,
    "UnauthenticatedError": 401,
    "PermissionDeniedError": 403,
    "NotFoundError": 404,
    "AlreadyExistsError": 409,
    "ConflictError": 409,
    "UnsupportedError": 501,
    "UnavailableError": 503,
}
"""Anything else is 500."""


def http_status(error: WharfieError) -> int:
    return int(error.fields.get("http_status") or _STATUS.get(error.code, 500))


def as_wharfie(error: BaseException) -> WharfieError:
    """Any exception as one of ours; what nobody meant to raise is Internal (and has to be logged by the caller)."""
    if isinstance(error, WharfieError):
        return error
    if isinstance(error, OSError):
        text = f"{error.strerror or error}" + (f": {error.filename!r}" if error.filename else "")
        if error.errno == errno.ENOSPC:
            return ResourceExhausted(text, hint="make room on the disk that holds the engine's root")
        if error.errno in {errno.EPERM, errno.EACCES}:
            return PermissionDenied(text)
        if error.errno == errno.ENOENT:
            return NotFound(text, http_status=500)
        return Internal(text)
    return Internal(f"{type(error).__name__}: {error}")


def error_document(error: WharfieError) -> dict[str, Any]:
    document: dict[str, Any] = {"message": error.full(), "code": error.code}
    if error.hint:
        document["hint"] = error.hint
    fields = {k: v for k, v in error.fields.items() if k != "http_status" and isinstance(v, str | int | float | bool)}
    if fields:
        document["fields"] = fields
    return document


def encode_error(error: BaseException) -> tuple[int, bytes]:
    """(HTTP status, JSON body). Logs what is a defect or a failure of the host."""
    known = as_wharfie(error)
    status = http_status(known)
    if not isinstance(error, WharfieError):
        _log.error("request ended in %s: %s", type(error).__name__, error, exc_info=error)
    elif status >= 500:
        _log.error("%s", known.full().replace("\n", "; "))
    return status, msgspec.json.encode(error_document(known))
