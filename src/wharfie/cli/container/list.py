# SPDX-License-Identifier: Apache-2.0
"""`ps`: the list of containers."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.format import human, tables
from wharfie.cli.say import out
from wharfie.cli.values import filters
from wharfie.client.http import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Context, Options

HEADERS = {
    "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "RunningFor": "CREATED", "CreatedAt": "CREATED AT",
    "Status": "STATUS", "Ports": "PORTS", "Names": "NAMES", "Size": "SIZE", "State": "STATE", "Labels": "LABELS",
    "Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Platform": "PLATFORM",
}  # fmt: skip
DEFAULT = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")


def run(context: Context, options: Options, _words: list[str]) -> int:
    fmt = options.text("format")
    with_size = options.on("size") or ".Size" in fmt
    last = 1 if options.on("latest") else options.number("last")
    containers = context.client.get_json(
        query(
            "/containers/json",
            all=options.on("all") or last > 0,
            limit=last if last > 0 else None,
            size=with_size,
            filters=filters(options.items("filter")),
        )
    )
    full = options.on("no-trunc")
    if options.on("quiet") and not fmt:
        for c in containers:
            out(c["Id"] if full else c["Id"][:12])
        return 0
    default = (*DEFAULT, "Size") if with_size and not fmt else DEFAULT
    if fmt in ("", "table"):
        rows = [brief(c, full=full, with_size=with_size) for c in containers]
    else:
        rows = [{**brief(c, full=full, with_size=with_size), **_rest(c, full=full)} for c in containers]
    tables.show(fmt, HEADERS | _LABEL, default, rows)
    return 0


_LABEL: dict[str, str] = {"Label": "LABEL"}


def brief(c: dict[str, Any], *, full: bool, with_size: bool = False) -> dict[str, Any]:
    """The fields of the usual table; a list of a thousand should not pay for the others."""
    names = [n[1:] for n in c.get("Names") or ()]
    command = c.get("Command", "")
    row = {
        "ID": c["Id"] if full else c["Id"][:12],
        "Image": image_name(c, full=full),
        "Command": f'"{command if full else human.ellipsis(command, 20)}"',
        "RunningFor": human.ago(c["Created"]),
        "Status": c.get("Status", ""),
        "Ports": ports(c.get("Ports") or []),
        "Names": ",".join(names if full else [n for n in names if "/" not in n] or names),
    }
    if with_size:
        size, whole = c.get("SizeRw") or 0, c.get("SizeRootFs") or 0
        row["Size"] = f"{human.size(size)} (virtual {human.size(whole)})" if whole else human.size(size)
    return row


def image_name(c: dict[str, Any], *, full: bool) -> str:
    image: str = c.get("Image") or "<no image>"
    if image.startswith("sha256:"):
        return image if full else human.short_id(image)
    if not full and "@" in image:
        return image.partition("@")[0]
    return image


def _rest(c: dict[str, Any], *, full: bool) -> dict[str, Any]:
    labels = c.get("Labels") or {}
    mounts = [m.get("Name") or m.get("Source") or "" for m in c.get("Mounts") or ()]
    size = c.get("SizeRw") or 0
    whole = c.get("SizeRootFs") or 0
    return {
        "CreatedAt": human.stamp(c["Created"]),
        "State": c.get("State", ""),
        "Labels": ",".join(f"{k}={labels[k]}" for k in sorted(labels)),
        "Label": lambda name: labels.get(name, ""),
        "Mounts": ",".join(mounts if full else [human.ellipsis(m, 15) for m in mounts]),
        "LocalVolumes": str(sum(m.get("Driver") == "local" for m in c.get("Mounts") or ())),
        "Networks": ",".join(sorted((c.get("NetworkSettings") or {}).get("Networks") or {})),
        "Size": f"{human.size(size)} (virtual {human.size(whole)})" if whole else human.size(size),
        "Platform": c.get("ImageManifestDescriptor", {}).get("platform") if c.get("ImageManifestDescriptor") else None,
    }


def ports(entries: list[dict[str, Any]]) -> str:
    """`0.0.0.0:80->80/tcp, 443/tcp`, neighbouring ports as ranges."""
    groups: dict[tuple[str, str, bool], list[tuple[int, int]]] = {}
    for p in entries:
        public = p.get("PublicPort") or 0
        key = (p.get("IP") or "", p["Type"], bool(public))
        groups.setdefault(key, []).append((p["PrivatePort"], public))
    shown: list[tuple[int, str]] = []
    for (address, protocol, published), pairs in groups.items():
        runs: list[list[tuple[int, int]]] = []
        for pair in sorted(set(pairs)):
            previous = runs[-1][-1] if runs else (-9, -9)
            together = pair[0] == previous[0] + 1 and (not published or pair[1] == previous[1] + 1)
            if together:
                runs[-1].append(pair)
            else:
                runs.append([pair])
        for r in runs:
            private = _range(r[0][0], r[-1][0])
            where = f"[{address}]" if ":" in address else address
            text = f"{where}:{_range(r[0][1], r[-1][1])}->{private}" if published else private
            shown.append((r[0][0], f"{text}/{protocol}"))
    return ", ".join(text for _, text in sorted(shown, key=lambda s: s[0]))


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


PS = Command(
    run,
    "[OPTIONS]",
    "List containers",
    flags=(
        ("all", "a", "bool", "Stopped ones too (otherwise only running ones)"),
        ("filter", "f", "filter[]", "Only those that match (name=…, status=…, label=…, ancestor=…)"),
        ("format", "", "string", "table, table TEMPLATE, json, or a Go template"),
        ("last", "n", "int", "Only the N made last, in any state", -1),
        ("latest", "l", "bool", "Only the one made last, in any state"),
        ("no-trunc", "", "bool", "Cut nothing off"),
        ("quiet", "q", "bool", "Only the ids"),
        ("size", "s", "bool", "Sizes too"),
    ),
)
