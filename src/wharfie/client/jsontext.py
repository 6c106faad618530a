# SPDX-License-Identifier: Apache-2.0
"""JSON by the interpreter's own C scanner and encoder.

`import json` pulls in `re` and costs 6 ms, a third of what `run` may take in all. The C functions behind it are the same
in CPython 3.11 to 3.14; where they are missing (another interpreter), the package is used instead.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Settings:
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}  # noqa: RUF012 - the shape c_make_scanner reads

    @staticmethod
    def parse_constant(name: str) -> float:
        raise ValueError(f"{name} is not JSON")


def _not_json(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no JSON form")


_scan: Callable[[str, int], tuple[Any, int]] | None = None
_SPACE = " \t\r\n"
_LARGE = 64 << 10


def loads(data: bytes | bytearray | str) -> Any:
    """One JSON value. Raises: ValueError for anything else."""
    text = data if isinstance(data, str) else str(data, "utf-8")
    start = len(text) - len(text.lstrip(_SPACE))
    if len(text) < _LARGE:
        value, end = loads_from(text, start)
    else:  # the collector would look through what is being built again and again: 3 ms of a list of 1,000
        import gc

        was_on = gc.isenabled()
        gc.disable()
        try:
            value, end = loads_from(text, start)
        finally:
            if was_on:
                gc.enable()
    if text[end:].strip(_SPACE):
        raise ValueError(f"extra data after JSON at character {end}")
    return value


def loads_from(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at `start`, and where it ends: streams of values without separators are read so."""
    global _scan
    if _scan is None:
        try:
            from _json import make_scanner  # type: ignore[attr-defined,import-not-found,unused-ignore]

            _scan = make_scanner(_Settings)  # type: ignore[arg-type,unused-ignore]
        except ImportError:
            from json import JSONDecoder

            _scan = JSONDecoder().scan_once  # type: ignore[attr-defined]
    try:
        return _scan(text, start)
    except StopIteration as e:
        raise ValueError(f"not JSON at character {e.value}: {text[start : start + 40]!r}") from None


def dumps(value: object) -> str:
    """Compact JSON in ASCII."""
    try:
        from _json import encode_basestring_ascii, make_encoder  # type: ignore[attr-defined,import-not-found,unused-ignore]
    except ImportError:
        import json

        return json.dumps(value, separators=(",", ":"))
    encode = make_encoder({}, _not_json, encode_basestring_ascii, None, ":", ",", False, False, False)
    return "".join(encode(value, 0))


def dumps_readable(value: object) -> str:
    """Compact JSON that leaves non-ASCII text as it is, and methods of table rows out."""
    if isinstance(value, dict):
        return (
            "{"
            + ",".join(f"{dumps_readable(str(k))}:{dumps_readable(v)}" for k, v in value.items() if not callable(v))
            + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(dumps_readable, value)) + "]"
    return quote(value) if isinstance(value, str) else dumps(value)


def dumps_pretty(value: object, indent: str = "    ", *, level: int = 0) -> str:
    """As Go's MarshalIndent prints it, which is what `inspect` shows; non-ASCII text stays readable."""
    inner = "\n" + indent * (level + 1)
    if isinstance(value, dict):
        if not value:
            return "{}"
        items = (f"{quote(str(k))}: {dumps_pretty(v, indent, level=level + 1)}" for k, v in value.items())
        return "{" + inner + ("," + inner).join(items) + "\n" + indent * level + "}"
    if isinstance(value, list):
        if not value:
            return "[]"
        return "[" + inner + ("," + inner).join(dumps_pretty(v, indent, level=level + 1) for v in value) + "\n" + indent * level + "]"  # fmt: skip
    return quote(value) if isinstance(value, str) else dumps(value)


def quote(text: str) -> str:
    try:
        from _json import encode_basestring  # type: ignore[attr-defined,import-not-found,unused-ignore]
    except ImportError:
        import json

        return json.dumps(text, ensure_ascii=False)
    quoted: str = encode_basestring(text)
    return quoted
