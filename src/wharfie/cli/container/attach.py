# SPDX-License-Identifier: Apache-2.0
"""`attach`: the terminal and a container that runs already; shared with `start -a`."""

from __future__ import annotations

from wharfie.cli import exit as exit_codes
from wharfie.cli.command import Command
from wharfie.cli.container.run import UPGRADE, detach_keys, exit_code, resize
from wharfie.cli.say import out
from wharfie.client.http import escape, query
from wharfie.errdefs import Conflict, FailedPrecondition, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wharfie.cli.command import Context, Options


def attached(
    context: Context,
    options: Options,
    container: dict[str, Any],
    *,
    stdin: bool,
    condition: str,
    start: Callable[[], object] | None = None,
) -> int:
    """Attach, start it if asked to, copy until it ends; its exit code. `container` is what inspect says."""
    from wharfie.cli import terminal
    from wharfie.cli.session import Session

    client, config, identifier = context.client, container["Config"], container["Id"]
    tty = config["Tty"]
    stdin = stdin and config["OpenStdin"]
    if tty and stdin and not terminal.is_terminal(0):
        raise InvalidArgument("the container has a terminal, but the input device is not a TTY")
    keys = detach_keys(options) if tty else ""
    stream = client.begin(
        "POST",
        query(f"/containers/{identifier}/attach", stream=True, stdin=stdin, stdout=True, stderr=True, detachKeys=keys),
        headers=UPGRADE,
    )
    wait = client.begin("POST", query(f"/containers/{identifier}/wait", condition=condition))
    client.finish(stream)
    waiting = client.finish(wait)
    session = Session(stream, tty=tty, stdin=stdin, detach_keys=keys)
    if options.on("sig-proxy"):
        session.on_signal = lambda name: client.do("POST", f"/containers/{identifier}/kill?signal={name}").discard()
    if tty:
        session.on_resize = lambda rows, columns: resize(client, f"/containers/{identifier}/resize", rows, columns)
    session.catch_signals()
    if start is not None:
        start()
    if tty and (size := terminal.size()):
        if start is None:  # programs draw again only when the size changes
            resize(client, f"/containers/{identifier}/resize", size[0] + 1, size[1] + 1)
        resize(client, f"/containers/{identifier}/resize", *size)
    session.run(until=wait)
    if session.detached:
        out()
        return 0
    if session.ended_by:
        return exit_codes.SIGNALLED + session.ended_by
    return exit_code(client, identifier, waiting)


def run(context: Context, options: Options, words: list[str]) -> int:
    container = context.client.get_json(f"/containers/{escape(words[0])}/json")
    state = container["State"]
    if not state["Running"]:
        raise Conflict(f"attach to `{words[0]}`: it is not running", hint=f"wharfie start -a {words[0]}")
    if state["Paused"]:
        raise FailedPrecondition(f"attach to `{words[0]}`: it is paused", hint=f"wharfie unpause {words[0]}")
    if state["Restarting"]:
        raise FailedPrecondition(f"attach to `{words[0]}`: it is restarting")
    return attached(context, options, container, stdin=not options.on("no-stdin"), condition="")


ATTACH = Command(
    run,
    "[OPTIONS] CONTAINER",
    "Connect this terminal to a running container",
    flags=(
        ("detach-keys", "", "string", "Keys that detach this terminal (default ctrl-p,ctrl-q)"),
        ("no-stdin", "", "bool", "Leave stdin alone"),
        ("sig-proxy", "", "bool", "Pass signals on to the container", True),
    ),
    least=1,
    most=1,
)
