# SPDX-License-Identifier: Apache-2.0
"""errdefs <-> google.rpc.Status. Between our own programs the class, hint and fields travel as a detail."""

from __future__ import annotations

import json

from wharfie import errdefs
from wharfie.errdefs import WharfieError
from wharfie.spec.pb.base import Any
from wharfie.spec.pb.ttrpc import Status

_CODES: dict[type[WharfieError], int] = {
    errdefs.Cancelled: 1,
    errdefs.WharfieError: 2,
    errdefs.InvalidArgument: 3,
    errdefs.DeadlineExceeded: 4,
    errdefs.NotFound: 5,
    errdefs.AlreadyExists: 6,
    errdefs.PermissionDenied: 7,
    errdefs.ResourceExhausted: 8,
    errdefs.FailedPrecondition: 9,
    errdefs.Aborted: 10,
    errdefs.OutOfRange: 11,
    errdefs.Unsupported: 12,
    errdefs.Internal: 13,
    errdefs.Unavailable: 14,
    errdefs.DataLoss: 15,
    errdefs.Unauthenticated: 16,
}
_CLASSES = {code: cls for cls, code in _CODES.items()}
_DETAIL = "io.wharfie.error"


def to_document(error: BaseException) -> dict[str, object]:
    """An error as JSON-able facts; anything that is no WharfieError is a defect of ours and becomes Internal."""
    if isinstance(error, WharfieError):
        fields = {k: v if isinstance(v, (str, int, float)) else str(v) for k, v in error.fields.items()}
        return {"code": error.code, "message": error.message, "hint": error.hint, "fields": fields}
    kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
    return {"code": errdefs.Internal.code, "message": f"{kind}{error}", "hint": None, "fields": {}}


def from_document(document: dict[str, object]) -> WharfieError:
    hint, fields = document.get("hint"), document.get("fields")
    return errdefs.from_code(
        str(document.get("code", "")),
        str(document.get("message", "")),
        hint=hint if isinstance(hint, str) else None,
        **(fields if isinstance(fields, dict) else {}),
    )


def to_status(error: BaseException) -> Status:
    document = to_document(error)
    cls = type(error) if isinstance(error, WharfieError) else errdefs.Internal
    code = next((c for k, c in _CODES.items() if k is cls), 9 if cls is errdefs.Conflict else 2)
    detail = Any(type_url=_DETAIL, value=json.dumps(document).encode())
    return Status(code=code, message=str(document["message"]), details=[detail])


def from_status(status: Status) -> WharfieError:
    for detail in status.details:
        if detail.type_url == _DETAIL:
            return from_document(json.loads(detail.value))
    return _CLASSES.get(status.code, WharfieError)(status.message)
