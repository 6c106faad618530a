# SPDX-License-Identifier: Apache-2.0
"""Logging: the field names of the whole system, a bound context, `key=value` lines, secrets scrubbed.

    with bind(container_id=…, request_id=…):      # everything logged inside carries them, across await too
        logging.getLogger("wharfie.x").info("started", extra=fields(pid=4))

Small processes (shim, zygote) have no stdlib logging and write with `line`; the daemon gives its handler `formatter()`.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import re
import sys
import time
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Mapping

FIELDS = frozenset((
    "namespace", "container_id", "exec_id", "image", "digest", "snapshot_key", "pid", "uvm_id", "network", "vertex",
    "duration_s", "request_id", "runtime", "path", "entry", "error", "signal", "lost_bytes", "call",
))  # fmt: skip
"""No other name is logged: a search for container_id finds everything about a container."""

_NOTHING: Mapping[str, object] = types.MappingProxyType({})
_context: contextvars.ContextVar[Mapping[str, object]] = contextvars.ContextVar("wharfie_log", default=_NOTHING)

_NAMED_SO = r"[\w.-]*(?:password|passwd|secret|token|api_?key|credential|authorization|x-registry-auth)[\w.-]*"
_SECRET = re.compile(
    rf"""(?ix)
    (?P<name> ["']?{_NAMED_SO}["']? \s* [=:] \s*)
    (?: (?:basic|bearer)\s+ )? (?: "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' | [^\s,;&"']+ )
    | (?P<scheme> \b(?:basic|bearer)\s+ ) [\w.~+/=-]{{8,}}
    | (?P<url> ://[^/\s:@]*: ) [^/\s@]+ (?= @)
    """
)


def scrub(text: str) -> str:
    """Text with values of secrets (password=…, Authorization: …, URLs with a password) replaced by `***`."""
    return _SECRET.sub(lambda m: (m["name"] or m["scheme"] or m["url"] or "") + "***", text)


def _check(names: Mapping[str, object]) -> None:
    if unknown := names.keys() - FIELDS:
        raise ValueError(f"log: no field {min(unknown)!r}; names stand in wharfie.log.FIELDS")


@contextlib.contextmanager
def bind(**values: object) -> Iterator[None]:
    """Add fields to everything logged inside, in this task and those that it starts."""
    _check(values)
    token = _context.set({**_context.get(), **values})
    try:
        yield
    finally:
        _context.reset(token)


def bound() -> Mapping[str, object]:
    """Fields bound here."""
    return _context.get()


def fields(**values: object) -> dict[str, object]:
    """`extra=` of a stdlib logging call."""
    _check(values)
    return {"wharfie_fields": values}


def _value(value: object) -> str:
    text = value if isinstance(value, str) else f"{value:.6f}" if isinstance(value, float) else str(value)
    return text if text and all(c.isalnum() or c in "._-/:@+" for c in text) else json.dumps(text, ensure_ascii=False)


def render(time_s: float, level: str, message: str, values: Mapping[str, object], *, as_json: bool = False) -> str:
    """One line: time, level, msg, then the fields in the order they were bound. Newlines stay inside quotes."""
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(time_s))}.{int(time_s % 1 * 1000):03}Z"
    clean = {k: scrub(v) if isinstance(v, str) else v for k, v in values.items()}
    message = scrub(message)
    if as_json:
        return json.dumps({"time": stamp, "level": level, "msg": message, **clean}, ensure_ascii=False, default=str)
    tail = "".join(f" {k}={_value(v)}" for k, v in clean.items())
    return f"time={stamp} level={level} msg={json.dumps(message, ensure_ascii=False)}{tail}"


def line(level: str, message: str, **values: object) -> None:
    """Write a line to stderr without stdlib logging."""
    _check(values)
    sys.stderr.write(render(time.time(), level, message, {**_context.get(), **values}) + "\n")
    sys.stderr.flush()


def formatter(*, as_json: bool = False) -> logging.Formatter:
    """For the daemon's handler: bound fields, fields of the call, a traceback as part of the message."""
    import logging

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            message = record.getMessage()
            if record.exc_info:
                message = f"{message}\n{self.formatException(record.exc_info)}"
            values = {**_context.get(), **getattr(record, "wharfie_fields", {}), "logger": record.name}
            return render(record.created, record.levelname.lower(), message, values, as_json=as_json)

    return Formatter()
