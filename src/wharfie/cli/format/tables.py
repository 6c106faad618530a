# SPDX-License-Identifier: Apache-2.0
"""Tables, and the `--format` that may replace them.

A listing gives its columns as (HEADER, field name, …) and its rows as dicts by field name; the fields are what
`--format '{{.Name}}'` and `--format json` see.
"""

from __future__ import annotations

from wharfie.cli.say import out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    Row = dict[str, Any]

GAP, LEAST = 3, 10


def lines(header: Sequence[str], rows: Iterable[Sequence[str]], *, least: int = LEAST) -> list[str]:
    """Columns as wide as their widest cell, three blanks apart and never under `least`, the last one not padded."""
    cells = [list(header), *(list(r) for r in rows)]
    widths = [max(len(r[i]) for r in cells) for i in range(len(header))]
    pad = [max(w + GAP, least) for w in widths[:-1]] + [0]
    return ["".join(c.ljust(p) for c, p in zip(r, pad, strict=True)) for r in cells]


def show(fmt: str, headers: dict[str, str], default: Sequence[str], rows: list[Row]) -> None:
    """Print rows: as a table of the `default` fields, or by `fmt` (table, json, a template).

    `headers` names every field's column, also those that only a template shows.
    """
    if fmt in ("", "table"):
        for line in lines([headers[f] for f in default], ([str(r[f]) for f in default] for r in rows)):
            out(line)
        return
    if fmt == "json":
        from wharfie.client.jsontext import dumps_readable

        for row in rows:
            out(dumps_readable({k: row[k] for k in sorted(row)}))
        return
    from wharfie.cli.format.template import Template

    table = fmt.startswith("table ")
    template = Template(unescape(fmt.removeprefix("table ").strip() if table else fmt), fields=set(headers))
    if not table:
        for row in rows:
            out(template.render({k: row[k] for k in sorted(row)}))
        return
    cells = [template.render(headers).split("\t"), *(template.render(r).split("\t") for r in rows)]
    width = max(map(len, cells))
    for line in lines(*_split([c + [""] * (width - len(c)) for c in cells])):
        out(line)


def _split(cells: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    return cells[0], cells[1:]


def unescape(text: str) -> str:
    """Give the tabs and line ends meant by backslash-t and backslash-n: shells pass them on as they are."""
    return text.replace("\\t", "\t").replace("\\n", "\n")
