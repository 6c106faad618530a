# SPDX-License-Identifier: Apache-2.0
"""Error classes of the whole system, each with a stable code.

    WharfieError
    ├── InvalidArgument      the caller asked for something malformed
    ├── NotFound             the named object does not exist
    ├── AlreadyExists        the name is taken
    ├── Conflict             the object is in use or in another state
    ├── FailedPrecondition   the host or object cannot do it as it is now
    ├── PermissionDenied     / Unauthenticated
    ├── Unavailable          a peer (registry, shim) does not answer
    ├── ResourceExhausted    disk, memory, ids, limits
    ├── Aborted / Cancelled / DeadlineExceeded / OutOfRange
    ├── Unsupported          known, but not by this engine or host
    ├── DataLoss             stored or received bytes are not what they claim
    └── Internal             a defect of ours

An error's message is: operation, quoted object, cause; lower case, no full stop. `hint` is one line with the fix.
The borders map codes once: `daemon/api/status.py` to HTTP, `cli/exit.py` to exit codes. Nobody matches text.
Hand-written slots, no dataclasses: this module is on the CLI's start-up path (style: 2.2).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class WharfieError(Exception):
    """Base of all errors that Wharfie reports on purpose.

    `fields` are machine-readable facts (snake_case names of `log.py`): container_id=…, image=…, path=….
    """

    code = "UnknownError"

    def __init__(self, message: str, *, hint: str | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields

    def __str__(self) -> str:
        return self.message

    def full(self) -> str:
        """Message and hint as people should see them."""
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class InvalidArgument(WharfieError):
    code = "InvalidArgumentError"


class NotFound(WharfieError):
    code = "NotFoundError"


class AlreadyExists(WharfieError):
    code = "AlreadyExistsError"


class Conflict(WharfieError):
    code = "ConflictError"


class FailedPrecondition(WharfieError):
    code = "FailedPreconditionError"


class PermissionDenied(WharfieError):
    code = "PermissionDeniedError"


class Unauthenticated(WharfieError):
    code = "UnauthenticatedError"


class Unavailable(WharfieError):
    code = "UnavailableError"


class ResourceExhausted(WharfieError):
    code = "ResourceExhaustedError"


class Aborted(WharfieError):
    code = "AbortedError"


class OutOfRange(WharfieError):
    code = "OutOfRangeError"


class DeadlineExceeded(WharfieError):
    code = "DeadlineExceededError"


class Cancelled(WharfieError):
    code = "CancelledError"


class Unsupported(WharfieError):
    code = "UnsupportedError"


class DataLoss(WharfieError):
    code = "DataLossError"


class Internal(WharfieError):
    code = "InternalError"


_BY_CODE: dict[str, type[WharfieError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument, NotFound, AlreadyExists, Conflict, FailedPrecondition, PermissionDenied, Unauthenticated,
        Unavailable, ResourceExhausted, Aborted, OutOfRange, DeadlineExceeded, Cancelled, Unsupported, DataLoss,
        Internal,
    )
}  # fmt: skip


def from_code(code: str, message: str, *, hint: str | None = None, **fields: Any) -> WharfieError:
    """Rebuild an error that crossed a process border; an unknown code gives the base class."""
    return _BY_CODE.get(code, WharfieError)(message, hint=hint, **fields)
