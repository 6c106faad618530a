# SPDX-License-Identifier: Apache-2.0
"""`start`: containers that exist, in the background or attached to the terminal."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.container.lifecycle import each
from wharfie.client.http import escape
from wharfie.errdefs import InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Context, Options


def run(context: Context, options: Options, words: list[str]) -> int:
    client = context.client
    if options.given & {"checkpoint", "checkpoint-dir"}:
        raise Unsupported("--checkpoint: checkpoint and restore is not supported yet")
    if not (options.on("attach") or options.on("interactive")):
        return each(words, lambda c: client.do("POST", f"/containers/{c}/start"))
    if len(words) > 1:
        raise InvalidArgument(
            "start -a: a terminal can be attached to one container only", hint="start them one by one"
        )
    from wharfie.cli.container.attach import attached

    container = client.get_json(f"/containers/{escape(words[0])}/json")
    removes = container["HostConfig"].get("AutoRemove")
    return attached(
        context,
        options,
        container,
        stdin=options.on("interactive"),
        condition="removed" if removes else "next-exit" if not container["State"]["Running"] else "",
        start=lambda: client.do("POST", f"/containers/{container['Id']}/start"),
    )


START = Command(
    run,
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Start containers",
    flags=(
        ("attach", "a", "bool", "Attach stdout and stderr, and pass signals on"),
        ("checkpoint", "", "string", "@not supported yet"),
        ("checkpoint-dir", "", "string", "@not supported yet"),
        ("detach-keys", "", "string", "Keys that detach this terminal (default ctrl-p,ctrl-q)"),
        ("interactive", "i", "bool", "Attach stdin"),
        ("sig-proxy", "", "bool", "@pass signals on", True),
    ),
    least=1,
    most=None,
)
