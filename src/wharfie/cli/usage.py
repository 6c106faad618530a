# SPDX-License-Identifier: Apache-2.0
"""Help texts, laid out as users of `docker` know them: usage, summary, aliases, options in two columns."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Command, Flag

_SHOWN = {"word?": "string", "strings": "strings", "list": "list"}


def width() -> int:
    try:
        return max(60, min(os.get_terminal_size(1).columns, 120))
    except OSError:
        return 80


def usage_line(path: str, command: Command) -> str:
    return f"Usage:  {path} {command.usage}".rstrip()


def command_help(path: str, command: Command) -> str:
    from wharfie.cli.commands import aliases_of

    parts = [usage_line(path, command), "", command.detail or command.summary]
    names = aliases_of(path)
    if len(names) > 1:
        parts += ["", "Aliases:", "  " + ", ".join(names)]
    if command.flags:
        parts += ["", "Options:", flag_lines(command.flags)]
    return "\n".join(parts) + "\n"


def flag_lines(flags: tuple[Flag, ...]) -> str:
    shown = sorted((f for f in flags if not f[3].startswith("@")), key=lambda f: str(f[0]).lower())
    left = [_left(f) for f in shown]
    column = max(map(len, left)) + 3
    lines = []
    for flag, head in zip(shown, left, strict=True):
        text = flag[3] + _default(flag)
        room = width() - column
        rows = [r for part in text.split("\n") for r in wrapped(part, room)]
        lines.append(head.ljust(column) + rows[0])
        lines += [" " * column + row for row in rows[1:]]
    return "\n".join(line.rstrip() for line in lines)


def _left(flag: Flag) -> str:
    name, short, kind = flag[:3]
    value = "" if kind == "bool" else f" {_value_name(kind)}"
    return f"  {f'-{short}, ' if short else '    '}--{name}{value}"


def _value_name(kind: str) -> str:
    return "list" if kind.endswith("[]") else _SHOWN.get(kind, kind)


def _default(flag: Flag) -> str:
    if len(flag) < 5 or flag[4] in (False, "", None):
        return ""
    value = flag[4]
    return " (default true)" if value is True else f' (default "{value}")' if isinstance(value, str) else f" (default {value})"  # fmt: skip


def wrapped(text: str, room: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > room:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines


def noun_help(noun: str, summary: str, rows: list[tuple[str, str]]) -> str:
    listing = two_columns(rows)
    return (
        f"Usage:  wharfie {noun} COMMAND\n\n{summary}\n\nCommands:\n{listing}\n\n"
        f"Run 'wharfie {noun} COMMAND --help' for more information on a command.\n"
    )


def two_columns(rows: list[tuple[str, str]]) -> str:
    column = max(len(name) for name, _ in rows) + 1
    return "\n".join(f"  {name.ljust(column)} {text}" for name, text in rows)
