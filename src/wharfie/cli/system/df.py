# SPDX-License-Identifier: Apache-2.0
"""`system df`: what takes space on disk."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.format import human, tables
from wharfie.cli.say import out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Context, Options

HEADERS = {"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}


def run(context: Context, options: Options, _words: list[str]) -> int:
    usage = context.client.get_json("/system/df")
    if options.on("verbose"):
        return _verbose(usage)
    tables.show(options.text("format"), HEADERS, tuple(HEADERS), [_images(usage), _containers(usage), _volumes(usage), _cache(usage)])  # fmt: skip
    return 0


def _row(kind: str, total: int, active: int, size: int, reclaimable: int, *, percent: bool = True) -> dict[str, Any]:
    share = f" ({reclaimable * 100 // size}%)" if size and percent else ""
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": human.size(size, 4),
        "Reclaimable": f"{human.size(reclaimable, 4)}{share}",
    }


def _images(usage: dict[str, Any]) -> dict[str, Any]:
    images, size = usage.get("Images") or [], usage.get("LayersSize") or 0
    used = sum(i["Size"] - max(i.get("SharedSize", 0), 0) for i in images if i.get("Containers", 0) > 0)
    return _row("Images", len(images), sum(i.get("Containers", 0) > 0 for i in images), size, max(size - used, 0))


def _containers(usage: dict[str, Any]) -> dict[str, Any]:
    containers = usage.get("Containers") or []
    live = [c for c in containers if c["State"] in ("running", "paused", "restarting")]
    size = sum(c.get("SizeRw") or 0 for c in containers)
    return _row("Containers", len(containers), len(live), size, size - sum(c.get("SizeRw") or 0 for c in live))


def _volumes(usage: dict[str, Any]) -> dict[str, Any]:
    volumes = [v for v in usage.get("Volumes") or () if v.get("UsageData")]
    size = sum(max(v["UsageData"]["Size"], 0) for v in volumes)
    used = [v for v in volumes if v["UsageData"]["RefCount"] > 0]
    held = sum(max(v["UsageData"]["Size"], 0) for v in used)
    return _row("Local Volumes", len(volumes), len(used), size, size - held)


def _cache(usage: dict[str, Any]) -> dict[str, Any]:
    entries = usage.get("BuildCache") or []
    own = [e for e in entries if not e.get("Shared")]
    size = sum(e["Size"] for e in own)
    free = sum(e["Size"] for e in own if not e.get("InUse"))
    return _row("Build Cache", len(entries), sum(bool(e.get("InUse")) for e in entries), size, free, percent=False)


def _verbose(usage: dict[str, Any]) -> int:
    out("Images space usage:\n")
    rows = []
    for i in usage.get("Images") or ():
        shared = max(i.get("SharedSize", 0), 0)
        for name in i.get("RepoTags") or ["<none>:<none>"]:
            repository, _, tag = name.rpartition(":")
            rows.append([repository, tag, human.short_id(i["Id"]), human.ago(i["Created"]), human.size(i["Size"], 4),
                         human.size(shared, 4), human.size(i["Size"] - shared, 4), str(i.get("Containers", 0))])  # fmt: skip
    _table(("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"), rows)
    out("\nContainers space usage:\n")
    rows = [
        [c["Id"][:12], c["Image"], f'"{human.ellipsis(c["Command"], 20)}"', str(len(c.get("Mounts") or ())),
         human.size(c.get("SizeRw") or 0, 4), human.ago(c["Created"]), c["Status"], ",".join(n[1:] for n in c["Names"])]
        for c in usage.get("Containers") or ()
    ]  # fmt: skip
    _table(("CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS", "NAMES"), rows)
    out("\nLocal Volumes space usage:\n")
    rows = [
        [v["Name"], str(v["UsageData"]["RefCount"]), human.size(max(v["UsageData"]["Size"], 0), 4)]
        for v in usage.get("Volumes") or ()
        if v.get("UsageData")
    ]
    _table(("VOLUME NAME", "LINKS", "SIZE"), rows)
    return 0


def _table(header: tuple[str, ...], rows: list[list[str]]) -> None:
    for line in tables.lines(header, rows):
        out(line)


DF = Command(
    run,
    "[OPTIONS]",
    "Show what takes space on disk",
    flags=(
        ("format", "", "string", "table, table TEMPLATE, json, or a Go template"),
        ("verbose", "v", "bool", "Each object"),
    ),
)
