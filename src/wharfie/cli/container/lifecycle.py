# SPDX-License-Identifier: Apache-2.0
"""Commands that do one thing to each container named: stop kill restart rm pause unpause wait, and rename."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.say import err, out
from wharfie.client.http import escape, query
from wharfie.errdefs import InvalidArgument, NotFound, WharfieError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wharfie.cli.command import Context, Options


def each(words: list[str], action: Callable[[str], object]) -> int:
    """Do it to all, complain about those that can't; 1 when there were any."""
    code = 0
    for word in words:
        try:
            action(escape(word))
        except WharfieError as e:
            err(f"wharfie: {e.full()}")
            code = 1
        else:
            out(word)
    return code


def _post(verb: str) -> Callable[[Context, Options, list[str]], int]:
    def run(context: Context, _options: Options, words: list[str]) -> int:
        return each(words, lambda c: context.client.do("POST", f"/containers/{c}/{verb}"))

    return run


def _stopping(verb: str) -> Callable[[Context, Options, list[str]], int]:
    """Make stop or restart. Several are stopped at once: each has a connection, so that the grace periods overlap."""

    def run(context: Context, options: Options, words: list[str]) -> int:
        seconds = options.number("timeout") if options.given & {"timeout", "time"} else None
        if "time" in options.given:
            seconds = options.number("time")
        signal = options.text("signal")
        client = context.client
        code = 0
        under_way = [(w, client.begin("POST", query(f"/containers/{escape(w)}/{verb}", t=seconds, signal=signal))) for w in words]  # fmt: skip
        for word, connection in under_way:
            try:
                client.finish(connection).discard()
            except WharfieError as e:
                err(f"wharfie: {e.full()}")
                code = 1
            else:
                out(word)
        return code

    return run


def _kill(context: Context, options: Options, words: list[str]) -> int:
    signal = options.text("signal")
    return each(words, lambda c: context.client.do("POST", query(f"/containers/{c}/kill", signal=signal)))


def _remove(context: Context, options: Options, words: list[str]) -> int:
    force = options.on("force")

    def remove(container: str) -> None:
        target = query(f"/containers/{container}", force=force, v=options.on("volumes"), link=options.on("link"))
        try:
            context.client.do("DELETE", target)
        except NotFound as e:
            if not force:
                raise
            err(f"wharfie: {e.message}")

    return each([w.removeprefix("/") for w in words], remove)


def _rename(context: Context, _options: Options, words: list[str]) -> int:
    if not words[1]:
        raise InvalidArgument("rename: the new name is empty")
    context.client.do("POST", query(f"/containers/{escape(words[0])}/rename", name=words[1]))
    return 0


def _wait(context: Context, _options: Options, words: list[str]) -> int:
    client = context.client
    code = 0
    under_way = [client.begin("POST", f"/containers/{escape(w)}/wait") for w in words]
    for connection in under_way:
        try:
            answer = client.json_of(client.finish(connection))
        except WharfieError as e:
            err(f"wharfie: {e.full()}")
            code = 1
        else:
            out(str(answer["StatusCode"]))
    return code


_MANY = "CONTAINER [CONTAINER...]"
_SIGNAL = ("signal", "s", "string", "Signal to send")
_GRACE = (
    _SIGNAL,
    ("timeout", "t", "int", "Seconds to wait before killing it (-1: for ever)"),
    ("time", "", "int", "@older name of --timeout"),
)
STOP = Command(_stopping("stop"), f"[OPTIONS] {_MANY}", "Stop running containers", flags=_GRACE, least=1, most=None)
RESTART = Command(
    _stopping("restart"), f"[OPTIONS] {_MANY}", "Stop and start containers", flags=_GRACE, least=1, most=None
)
KILL = Command(_kill, f"[OPTIONS] {_MANY}", "Send a signal to running containers", flags=(_SIGNAL,), least=1, most=None)
RM = Command(
    _remove,
    f"[OPTIONS] {_MANY}",
    "Remove containers",
    flags=(
        ("force", "f", "bool", "Kill it first if it runs"),
        ("link", "l", "bool", "Remove the link of this name"),
        ("volumes", "v", "bool", "Remove its anonymous volumes too"),
    ),
    least=1,
    most=None,
)
PAUSE = Command(_post("pause"), _MANY, "Freeze all processes of containers", least=1, most=None)
UNPAUSE = Command(_post("unpause"), _MANY, "Let frozen containers go on", least=1, most=None)
WAIT = Command(_wait, _MANY, "Wait until containers stop, then print their exit codes", least=1, most=None)
RENAME = Command(_rename, "CONTAINER NEW_NAME", "Give a container another name", least=2, most=2)
