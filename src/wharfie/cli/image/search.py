# SPDX-License-Identifier: Apache-2.0
"""`search`."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.format import human, tables
from wharfie.cli.values import filters
from wharfie.client.credentials import auth_header
from wharfie.client.http import query
from wharfie.errdefs import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Context, Options

HEADERS = {"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL"}


def run(context: Context, options: Options, words: list[str]) -> int:
    limit = options.number("limit")
    if not 0 <= limit <= 100:
        raise InvalidArgument(f"--limit {limit}: want 1 to 100")
    client = context.client
    target = query("/images/search", term=words[0], limit=limit or None, filters=filters(options.items("filter")))
    found = client.json_of(client.call("GET", target, headers=auth_header(words[0])))
    full = options.on("no-trunc")
    rows = []
    for image in sorted(found, key=lambda i: -i["star_count"]):
        text = image["description"].replace("\n", " ").replace("\r", " ")
        rows.append({
            "Name": image["name"],
            "Description": text if full else human.ellipsis(text, 45),
            "StarCount": str(image["star_count"]),
            "IsOfficial": "[OK]" if image["is_official"] else "",
        })  # fmt: skip
    tables.show(options.text("format"), HEADERS, tuple(HEADERS), rows)
    return 0


SEARCH = Command(
    run,
    "[OPTIONS] TERM",
    "Search a registry for images",
    flags=(
        ("filter", "f", "filter[]", "Only those that match (stars=…, is-official=…)"),
        ("format", "", "string", "table TEMPLATE, json, or a Go template"),
        ("limit", "", "int", "At most so many"),
        ("no-trunc", "", "bool", "Cut nothing off"),
    ),
    least=1,
    most=1,
)
