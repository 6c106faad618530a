# SPDX-License-Identifier: Apache-2.0
"""`history`: the steps an image was made by."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.format import human, tables
from wharfie.cli.say import out
from wharfie.client.http import escape, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Context, Options

HEADERS = {
    "ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE",
    "Comment": "COMMENT",
}  # fmt: skip


def run(context: Context, options: Options, words: list[str]) -> int:
    target = f"/images/{escape(words[0], b'/:@')}/history"
    if platform := options.text("platform"):
        from wharfie.cli.image.push import _platform

        target = query(target, platform=_platform(platform))
    full, plain = options.on("no-trunc"), not options.on("human")
    rows = [_row(layer, full=full, plain=plain) for layer in context.client.get_json(target)]
    if options.on("quiet"):
        for row in rows:
            out(row["ID"])
        return 0
    default = ["ID", "CreatedAt" if plain else "CreatedSince", "CreatedBy", "Size", "Comment"]
    tables.show(options.text("format"), HEADERS, default, rows)
    return 0


def _row(layer: dict[str, Any], *, full: bool, plain: bool) -> dict[str, Any]:
    by = layer.get("CreatedBy", "").replace("\t", " ")
    return {
        "ID": layer["Id"] if full or not layer["Id"].startswith("sha256:") else human.short_id(layer["Id"]),
        "CreatedSince": human.ago(layer["Created"]) if layer["Created"] > 0 else "N/A",
        "CreatedAt": human.iso(layer["Created"]),
        "CreatedBy": by if full else human.ellipsis(by, 45),
        "Size": str(layer["Size"]) if plain else human.size(layer["Size"]),
        "Comment": layer.get("Comment", ""),
    }


HISTORY = Command(
    run,
    "[OPTIONS] IMAGE",
    "Show the steps an image was made by",
    flags=(
        ("format", "", "string", "table, table TEMPLATE, json, or a Go template"),
        ("human", "H", "bool", "Sizes and times for people", True),
        ("no-trunc", "", "bool", "Cut nothing off"),
        ("platform", "", "string", "Of this platform (os/arch[/variant])"),
        ("quiet", "q", "bool", "Only the ids"),
    ),
    least=1,
    most=1,
)
