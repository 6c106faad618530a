# SPDX-License-Identifier: Apache-2.0
"""`container|image|volume|network|system prune`: remove what nothing needs, after asking."""

from __future__ import annotations

import sys

from wharfie.cli.command import Command
from wharfie.cli.format import human
from wharfie.cli.say import out
from wharfie.cli.values import filters
from wharfie.client.http import query
from wharfie.errdefs import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Context, Options


def confirmed(options: Options, warning: str) -> bool:
    """Only a written yes is one; no terminal and no --force means no."""
    if options.on("force"):
        return True
    sys.stdout.write(f"WARNING! {warning}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _post(context: Context, what: str, chosen: list[tuple[str, str]]) -> dict[str, Any]:
    answer: dict[str, Any] = context.client.post_json(query(f"/{what}/prune", filters=filters(chosen))) or {}
    return answer


def _say(title: str, names: list[str]) -> None:
    if names:
        out(f"{title}:")
        for name in names:
            out(name)
        out()


def _total(size: int) -> int:
    out(f"Total reclaimed space: {human.size(size, 4)}")
    return 0


def _containers(context: Context, options: Options, _words: list[str]) -> int:
    if not confirmed(options, "This will remove all stopped containers."):
        return 1
    answer = _post(context, "containers", options.items("filter"))
    _say("Deleted Containers", answer.get("ContainersDeleted") or [])
    return _total(answer.get("SpaceReclaimed", 0))


def _image_lines(answer: dict[str, Any]) -> list[str]:
    return [f"untagged: {d['Untagged']}" if d.get("Untagged") else f"deleted: {d.get('Deleted')}" for d in answer.get("ImagesDeleted") or ()]  # fmt: skip


def _images(context: Context, options: Options, _words: list[str]) -> int:
    every = options.on("all")
    what = "all images without at least one container associated to them" if every else "all dangling images"
    if not confirmed(options, f"This will remove {what}."):
        return 1
    answer = _post(context, "images", [*options.items("filter"), ("dangling", "false" if every else "true")])
    _say("Deleted Images", _image_lines(answer))
    return _total(answer.get("SpaceReclaimed", 0))


def _volumes(context: Context, options: Options, _words: list[str]) -> int:
    every = options.on("all")
    which = "all volumes" if every else "anonymous volumes"
    if not confirmed(options, f"This will remove {which} not used by at least one container."):
        return 1
    answer = _post(context, "volumes", [*options.items("filter"), *([("all", "1")] if every else [])])
    _say("Deleted Volumes", answer.get("VolumesDeleted") or [])
    return _total(answer.get("SpaceReclaimed", 0))


def _networks(context: Context, options: Options, _words: list[str]) -> int:
    if not confirmed(options, "This will remove all custom networks not used by at least one container."):
        return 1
    _say("Deleted Networks", _post(context, "networks", options.items("filter")).get("NetworksDeleted") or [])
    return 0


def _system(context: Context, options: Options, _words: list[str]) -> int:
    every, volumes = options.on("all"), options.on("volumes")
    parts = ["all stopped containers", "all networks not used by at least one container"]
    if volumes:
        parts.append("all anonymous volumes not used by at least one container")
    parts.append("all images without at least one container associated to them" if every else "all dangling images")
    if not confirmed(options, "This will remove:\n" + "".join(f"  - {p}\n" for p in parts)):
        return 1
    chosen = options.items("filter")
    total = 0
    steps = [
        ("containers", "Deleted Containers", "ContainersDeleted"),
        ("networks", "Deleted Networks", "NetworksDeleted"),
    ]
    if volumes:
        steps.append(("volumes", "Deleted Volumes", "VolumesDeleted"))
    for what, title, key in steps:
        try:
            answer = _post(context, what, chosen)
        except Unsupported:  # an engine without that kind has none to remove
            continue
        _say(title, answer.get(key) or [])
        total += answer.get("SpaceReclaimed", 0)
    answer = _post(context, "images", [*chosen, ("dangling", "false" if every else "true")])
    _say("Deleted Images", _image_lines(answer))
    return _total(total + answer.get("SpaceReclaimed", 0))


_FILTER = ("filter", "", "filter[]", "Only those that match (until=…, label=…)")
_FORCE = ("force", "f", "bool", "Don't ask")
CONTAINERS = Command(_containers, "[OPTIONS]", "Remove all stopped containers", flags=(_FILTER, _FORCE))
IMAGES = Command(
    _images,
    "[OPTIONS]",
    "Remove unused images",
    flags=(("all", "a", "bool", "All that no container uses, not only those without a name"), _FILTER, _FORCE),
)
VOLUMES = Command(
    _volumes,
    "[OPTIONS]",
    "Remove unused volumes",
    flags=(("all", "a", "bool", "Named ones too"), _FILTER, _FORCE),
)
NETWORKS = Command(_networks, "[OPTIONS]", "Remove unused networks", flags=(_FILTER, _FORCE))
SYSTEM = Command(
    _system,
    "[OPTIONS]",
    "Remove unused data",
    flags=(
        ("all", "a", "bool", "All images that no container uses, not only those without a name"),
        _FILTER,
        _FORCE,
        ("volumes", "", "bool", "Anonymous volumes too"),
    ),
)
