# SPDX-License-Identifier: Apache-2.0
"""`volume create|ls|rm`."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.container.lifecycle import each
from wharfie.cli.format import tables
from wharfie.cli.say import err, out
from wharfie.cli.values import filters, pairs
from wharfie.client.http import query
from wharfie.errdefs import InvalidArgument, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Context, Options

HEADERS = {
    "Driver": "DRIVER", "Name": "VOLUME NAME", "Scope": "SCOPE", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS",
    "Links": "LINKS", "Size": "SIZE", "Label": "LABEL",
}  # fmt: skip


def _create(context: Context, options: Options, words: list[str]) -> int:
    body: dict[str, Any] = {"Driver": options.text("driver")}
    if words:
        body["Name"] = words[0]
    if options.items("opt"):
        body["DriverOpts"] = pairs(options.items("opt"), "-o")
    if options.items("label"):
        body["Labels"] = pairs(options.items("label"), "--label", bare=True)
    out(context.client.post_json("/volumes/create", body)["Name"])
    return 0


def _list(context: Context, options: Options, _words: list[str]) -> int:
    answer = context.client.get_json(query("/volumes", filters=filters(options.items("filter"))))
    for warning in answer.get("Warnings") or ():
        err(f"WARNING: {warning}")
    volumes = sorted(answer.get("Volumes") or (), key=lambda v: v["Name"])
    fmt = options.text("format")
    if options.on("quiet") and not fmt:
        for volume in volumes:
            out(volume["Name"])
        return 0
    tables.show(fmt, HEADERS, ("Driver", "Name"), [_row(v) for v in volumes])
    return 0


def _row(volume: dict[str, Any]) -> dict[str, Any]:
    labels = volume.get("Labels") or {}
    usage = volume.get("UsageData")
    return {
        "Driver": volume["Driver"],
        "Name": volume["Name"],
        "Scope": volume.get("Scope", ""),
        "Mountpoint": volume.get("Mountpoint", ""),
        "Labels": ",".join(f"{k}={labels[k]}" for k in sorted(labels)),
        "Label": lambda name: labels.get(name, ""),
        "Links": str(usage["RefCount"]) if usage else "N/A",
        "Size": str(usage["Size"]) if usage else "N/A",
    }


def _remove(context: Context, options: Options, words: list[str]) -> int:
    force = options.on("force")

    def remove(volume: str) -> None:
        try:
            context.client.do("DELETE", query(f"/volumes/{volume}", force=force))
        except NotFound:
            if not force:
                raise

    if not all(words):
        raise InvalidArgument("volume rm: empty name")
    return each(words, remove)


CREATE = Command(
    _create,
    "[OPTIONS] [VOLUME]",
    "Make a volume",
    flags=(
        ("driver", "d", "string", "Driver to use", "local"),
        ("label", "", "list", "Set a label (KEY=VALUE)"),
        ("opt", "o", "list", "Option of the driver (KEY=VALUE)"),
    ),
    most=1,
)
LS = Command(
    _list,
    "[OPTIONS]",
    "List volumes",
    flags=(
        ("filter", "f", "filter[]", "Only those that match (dangling=true, driver=…, label=…, name=…)"),
        ("format", "", "string", "table, table TEMPLATE, json, or a Go template"),
        ("quiet", "q", "bool", "Only the names"),
    ),
)
RM = Command(
    _remove,
    "[OPTIONS] VOLUME [VOLUME...]",
    "Remove volumes",
    flags=(("force", "f", "bool", "Don't complain about missing ones"),),
    least=1,
    most=None,
)
