# SPDX-License-Identifier: Apache-2.0
"""Functions of templates: Go's own and the ones that docker adds."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def truth(value: Any) -> bool:
    """False for nothing: nil, 0, "", empty lists and maps."""
    return bool(value)


def go_text(value: Any) -> str:
    """What Go prints for a value: `true`, `<no value>`, `[a b]`, `map[k:v]`."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{' '.join(_inner(v) for v in value)}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{k}:{_inner(value[k])}' for k in sorted(value))}]"
    if isinstance(value, float) and (abs(value) >= 1e21 or (value and abs(value) < 1e-4)):
        return f"{value:e}"
    return str(value)


def _inner(value: Any) -> str:
    return "<nil>" if value is None else go_text(value)


def _json(value: Any) -> str:
    from wharfie.client.jsontext import dumps_readable

    return dumps_readable(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None:
            return None
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(key, int) and not isinstance(key, bool):
            if not 0 <= key < len(value):
                raise IndexError(f"index out of range: {key}")
            value = value[key]
        else:
            raise TypeError(f"cannot index {go_text(value)[:40]!r} by {key!r}")
    return value


def _slice(value: Any, *bounds: int) -> Any:
    if any(not 0 <= b <= len(value) for b in bounds):
        raise IndexError("slice bounds out of range")
    return value[bounds[0] if bounds else 0 : bounds[1] if len(bounds) > 1 else None]


def _and(*values: Any) -> Any:
    for value in values:
        if not truth(value):
            return value
    return values[-1]


def _or(*values: Any) -> Any:
    for value in values:
        if truth(value):
            return value
    return values[-1]


def _print(*values: Any) -> str:
    """Go puts a blank between operands when neither is a string."""
    result = ""
    for i, value in enumerate(values):
        if i and not isinstance(value, str) and not isinstance(values[i - 1], str):
            result += " "
        result += go_text(value)
    return result


def _println(*values: Any) -> str:
    return " ".join(go_text(v) for v in values) + "\n"


def _printf(fmt: str, *values: Any) -> str:
    result, at, used = "", 0, 0
    while at < len(fmt):
        c = fmt[at]
        at += 1
        if c != "%":
            result += c
            continue
        start = at
        while at < len(fmt) and fmt[at] in "+-# 0123456789.":
            at += 1
        verb, spec = fmt[at : at + 1], fmt[start:at]
        at += 1
        if verb == "%":
            result += "%"
            continue
        if used >= len(values):
            raise ValueError(f"printf: %{verb} has no value")
        result += _formatted(verb, spec, values[used])
        used += 1
    return result


def _formatted(verb: str, spec: str, value: Any) -> str:
    if verb in ("s", "v"):
        return f"%{spec}s" % (go_text(value),)
    if verb == "q":
        from wharfie.client.jsontext import quote

        return f"%{spec}s" % (quote(go_text(value)),)
    if verb == "t":
        return go_text(bool(value))
    if verb and verb in "dxXofeg":
        return f"%{spec}{verb}" % (value,)
    raise ValueError(f"printf: %{verb} is not supported")


def _truncate(value: str, length: int) -> str:
    return value[:length]


def _pad(value: str, before: int, after: int) -> str:
    return " " * before + value + " " * after if value else value


def _eq(first: Any, *others: Any) -> bool:
    return any(first == other for other in others)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": _and,
    "eq": _eq,
    "ge": lambda a, b: a >= b,
    "gt": lambda a, b: a > b,
    "index": _index,
    "join": lambda items, separator: separator.join(items or ()),
    "json": _json,
    "le": lambda a, b: a <= b,
    "len": lambda v: len(v or ()),
    "lower": lambda v: v.lower(),
    "lt": lambda a, b: a < b,
    "ne": lambda a, b: a != b,
    "not": lambda v: not truth(v),
    "or": _or,
    "pad": _pad,
    "print": _print,
    "printf": _printf,
    "println": _println,
    "slice": _slice,
    "split": lambda v, separator: v.split(separator),
    "title": lambda v: v.title(),
    "truncate": _truncate,
    "upper": lambda v: v.upper(),
}
