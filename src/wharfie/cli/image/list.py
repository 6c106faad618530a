# SPDX-License-Identifier: Apache-2.0
"""`images`: the list of images."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.format import human, tables
from wharfie.cli.say import out
from wharfie.cli.values import filters
from wharfie.client.http import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from wharfie.cli.command import Context, Options

HEADERS = {
    "ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT", "Size": "SIZE", "Containers": "CONTAINERS", "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE", "VirtualSize": "VIRTUAL SIZE",
}  # fmt: skip


def run(context: Context, options: Options, words: list[str]) -> int:
    if options.on("tree"):
        from wharfie.errdefs import Unsupported

        raise Unsupported("images --tree: not supported yet")
    chosen = options.items("filter")
    if words:
        chosen.append(("reference", words[0]))
    images = context.client.get_json(query("/images/json", all=options.on("all"), filters=filters(chosen)))
    fmt, full = options.text("format"), options.on("no-trunc")
    digests = options.on("digests") or ".Digest" in fmt
    rows = [row for image in images for row in _rows(image, full=full, digests=digests)]
    if options.on("quiet") and not fmt:
        for row in rows:
            out(row["ID"])
        return 0
    default = ["Repository", "Tag", "ID", "CreatedSince", "Size"]
    if digests:
        default.insert(2, "Digest")
    tables.show(fmt, HEADERS, default, rows)
    return 0


def _rows(image: dict[str, Any], *, full: bool, digests: bool) -> Iterator[dict[str, Any]]:
    """One row per name; with digests, one per name and digest of the same repository."""
    base = {
        "ID": image["Id"] if full else human.short_id(image["Id"]),
        "CreatedSince": human.ago(image["Created"]) if image["Created"] > 0 else "N/A",
        "CreatedAt": human.stamp(image["Created"]),
        "Size": human.size(image["Size"]),
        "Containers": "N/A" if image.get("Containers", -1) < 0 else str(image["Containers"]),
        "SharedSize": "N/A" if image.get("SharedSize", -1) < 0 else human.size(image["SharedSize"]),
        "UniqueSize": "N/A",
        "VirtualSize": human.size(image.get("VirtualSize") or image["Size"]),
    }
    names = [t for t in image.get("RepoTags") or () if t != "<none>:<none>"]
    known: dict[str, list[str]] = {}
    for text in image.get("RepoDigests") or ():
        repository, _, digest = text.partition("@")
        if repository != "<none>":
            known.setdefault(repository, []).append(digest)
    for name in names:
        repository, _, tag = name.rpartition(":")
        for digest in known.get(repository, ["<none>"]) if digests else ["<none>"]:
            yield {**base, "Repository": repository, "Tag": tag, "Digest": digest}
    if not names:
        for repository, digest in [(r, d) for r, ds in known.items() for d in ds] or [("<none>", "<none>")]:
            yield {**base, "Repository": repository, "Tag": "<none>", "Digest": digest}


IMAGES = Command(
    run,
    "[OPTIONS] [REPOSITORY[:TAG]]",
    "List images",
    flags=(
        ("all", "a", "bool", "Intermediate ones too"),
        ("digests", "", "bool", "Digests too"),
        ("filter", "f", "filter[]", "Only those that match (dangling=true, label=…, before=…, since=…, reference=…)"),
        ("format", "", "string", "table, table TEMPLATE, json, or a Go template"),
        ("no-trunc", "", "bool", "Cut nothing off"),
        ("quiet", "q", "bool", "Only the ids"),
        ("tree", "", "bool", "@not supported yet"),
    ),
    most=1,
)
