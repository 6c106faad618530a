# SPDX-License-Identifier: Apache-2.0
"""Parse words by a flag table, under the rules of the `docker` command line.

`--name value`, `--name=value`, `-n value`, `-n=value`, `-nvalue`, `-abc` for booleans (the last may take a value); a
boolean takes a value only after `=`; `--` ends the flags; `-` alone is an operand.
"""

from __future__ import annotations

from wharfie.cli.command import Options, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Flag

_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


class HelpWanted(Exception):
    """`--help` stands among the flags."""


def parse(flags: tuple[Flag, ...], words: list[str], *, interspersed: bool = True) -> tuple[Options, list[str]]:
    """Options and operands. Raises: UsageError, HelpWanted."""
    options = Options(flags)
    by_name = {flag[0]: flag for flag in flags}
    by_short = {flag[1]: flag for flag in flags if flag[1]}
    operands: list[str] = []
    at, end = 0, len(words)
    while at < end:
        word = words[at]
        at += 1
        if word == "--":
            operands += words[at:]
            break
        if len(word) < 2 or word[0] != "-":
            operands.append(word)
            if not interspersed:
                operands += words[at:]
                break
        elif word[1] == "-":
            name, has_value, value = word[2:].partition("=")
            if name == "help":
                raise HelpWanted
            flag = by_name.get(name)
            if flag is None:
                raise UsageError(_unknown(name, by_name))
            if not has_value:
                if flag[2] in ("bool", "word?"):
                    value = "true"
                elif at == end:
                    raise UsageError(f"flag needs an argument: --{name}")
                else:
                    value = words[at]
                    at += 1
            _store(options, flag, value)
        else:
            rest = word[1:]
            while rest:
                short, rest = rest[0], rest[1:]
                flag = by_short.get(short)
                if flag is None:
                    if short == "h":
                        raise HelpWanted
                    raise UsageError(f"unknown shorthand flag: '{short}' in {word}")
                if rest[:1] == "=":
                    value, rest = rest[1:], ""
                elif flag[2] in ("bool", "word?"):
                    value = "true"
                elif rest:
                    value, rest = rest, ""
                elif at == end:
                    raise UsageError(f"flag needs an argument: '{short}' in {word}")
                else:
                    value = words[at]
                    at += 1
                _store(options, flag, value)
    return options, operands


def _store(options: Options, flag: Flag, text: str) -> None:
    name, kind = flag[0], flag[2]
    options.given.add(name)
    if kind in ("string", "word?"):
        options.values[name] = text
    elif kind == "list":
        options.values.setdefault(name, []).append(text)
    elif kind == "strings":
        options.values.setdefault(name, []).extend(text.split(","))
    else:
        try:
            value = _converted(kind, text)
        except ValueError as e:
            shown = f"-{flag[1]}, --{name}" if flag[1] else f"--{name}"
            raise UsageError(f'invalid argument "{text}" for "{shown}" flag: {e}') from None
        if kind.endswith("[]"):
            options.values.setdefault(name, []).append(value)
        else:
            options.values[name] = value


def _converted(kind: str, text: str) -> Any:
    if kind == "bool":
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        raise ValueError(f"{text!r} is neither true nor false")
    if kind == "int":
        try:
            return int(text, 0) if text.strip() == text and "_" not in text else int("")
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
    from wharfie.cli.values import KINDS

    return KINDS[kind.removesuffix("[]")](text)


def _unknown(name: str, known: dict[str, Flag]) -> str:
    near = nearest(name, (n for n, flag in known.items() if not flag[3].startswith("@")))
    return f"unknown flag: --{name}" + (f"\nDid you mean --{near}?" if near else "")


def nearest(word: str, known: Any) -> str:
    """The known word that is fewest typing slips away, "" if none is close."""
    best, best_distance = "", max(1, len(word) // 3) + 1
    for candidate in known:
        if abs(len(candidate) - len(word)) < best_distance:
            distance = _slips(word, candidate)
            if distance < best_distance:
                best, best_distance = candidate, distance
    return best


def _slips(a: str, b: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours between two words."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, last, row = row, before, [i] + [0] * len(b)
        for j, y in enumerate(b, 1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                row[j] = min(row[j], last[j - 2] + 1)
    return row[-1]
