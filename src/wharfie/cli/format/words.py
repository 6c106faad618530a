# SPDX-License-Identifier: Apache-2.0
"""Words of a template action: (kind, word), kind being const, dot, field, chain (a field right after an operand), var,
name or op.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'"}
_CONSTANTS = {"true": True, "false": False, "nil": None}


def _is_name(c: str) -> bool:
    return c.isalnum() or c == "_"


def words(text: str) -> list[tuple[str, Any]]:
    """Raises: ValueError."""
    result: list[tuple[str, Any]] = []
    at, size, glued = 0, len(text), False
    while at < size:
        c = text[at]
        if c.isspace():
            at, glued = at + 1, False
            continue
        if c in "\"`'":
            value, at = _quoted(text, at)
            result.append(("const", value))
        elif c == ".":
            end = at + 1
            while end < size and _is_name(text[end]):
                end += 1
            if end == at + 1:
                result.append(("dot", "."))
            else:
                result.append(("chain" if glued else "field", text[at + 1 : end]))
            at = end
        elif c == "$" or c.isalpha() or c == "_":
            end = at + 1
            while end < size and _is_name(text[end]):
                end += 1
            word = text[at:end]
            at = end
            if c == "$":
                result.append(("var", word))
            elif word in _CONSTANTS:
                result.append(("const", _CONSTANTS[word]))
            else:
                result.append(("name", word))
        elif c.isdigit() or (c in "+-" and text[at + 1 : at + 2].isdigit()):
            end = at + 1
            while end < size and (_is_name(text[end]) or text[end] == "."):
                end += 1
            number = text[at:end]
            result.append(("const", float(number) if "." in number else int(number, 0)))
            at = end
        elif text.startswith(":=", at):
            result.append(("op", ":="))
            at += 2
        elif c in "|()=,":
            result.append(("op", c))
            at += 1
        else:
            raise ValueError(f"unexpected character `{c}`")
        glued = result[-1][0] != "op" or result[-1][1] == ")"
    return result


def _quoted(text: str, at: int) -> tuple[str, int]:
    quote, at = text[at], at + 1
    value = ""
    while at < len(text):
        c = text[at]
        at += 1
        if c == quote:
            return value, at
        if c == "\\" and quote != "`" and at < len(text):
            value += _ESCAPES.get(text[at], "\\" + text[at])
            at += 1
        else:
            value += c
    raise ValueError("a quote is not closed")
