# SPDX-License-Identifier: Apache-2.0
"""`rmi` and `tag`."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.say import err, out
from wharfie.client.http import escape, query
from wharfie.errdefs import InvalidArgument, NotFound, WharfieError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Context, Options


def _remove(context: Context, options: Options, words: list[str]) -> int:
    client = context.client
    code = 0
    for image in words:
        target = query(
            f"/images/{escape(image, b'/:@')}",
            force=options.on("force"),
            noprune=options.on("no-prune"),
            platforms=options.items("platform"),
        )
        try:
            for entry in client.json_of(client.call("DELETE", target)) or ():
                out(f"Deleted: {entry['Deleted']}" if entry.get("Deleted") else f"Untagged: {entry.get('Untagged')}")
        except WharfieError as e:
            err(f"wharfie: {e.full()}")
            if not (options.on("force") and isinstance(e, NotFound)):
                code = 1
    return code


def _tag(context: Context, _options: Options, words: list[str]) -> int:
    from wharfie.cli import names

    name, tag = names.split(words[1])
    if "@" in words[1]:
        raise InvalidArgument(f"tag `{words[1]}`: the new name can't have a digest")
    context.client.do("POST", query(f"/images/{escape(words[0], b'/:@')}/tag", repo=name, tag=tag))
    return 0


RMI = Command(
    _remove,
    "[OPTIONS] IMAGE [IMAGE...]",
    "Remove images",
    flags=(
        ("force", "f", "bool", "Remove it even when stopped containers use it"),
        ("no-prune", "", "bool", "Keep untagged parents"),
        ("platform", "", "strings", "Remove only this platform (os/arch[/variant])"),
    ),
    least=1,
    most=None,
)
TAG = Command(_tag, "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", "Give an image another name", least=2, most=2)
