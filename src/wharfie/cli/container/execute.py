# SPDX-License-Identifier: Apache-2.0
"""`exec`: a command in a running container."""

from __future__ import annotations

from wharfie.cli import exit as exit_codes
from wharfie.cli.command import Command
from wharfie.cli.container.run import UPGRADE, cannot_start, detach_keys, resize
from wharfie.cli.timing import Timing
from wharfie.client.http import escape
from wharfie.errdefs import InvalidArgument, NotFound, WharfieError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Context, Options


def _body(options: Options, command: list[str]) -> dict[str, Any]:
    attached = not options.on("detach")
    body: dict[str, Any] = {"Cmd": command, "AttachStdout": attached, "AttachStderr": attached}
    for flag, key, value in (
        ("tty", "Tty", options.on("tty")),
        ("interactive", "AttachStdin", options.on("interactive") and attached),
        ("privileged", "Privileged", options.on("privileged")),
        ("user", "User", options.text("user")),
        ("workdir", "WorkingDir", options.text("workdir")),
    ):
        if flag in options.given:
            body[key] = value  # noqa: PERF403 - the comprehension is longer
    if options.given & {"env", "env-file"}:
        from wharfie.cli.container.options import environment

        body["Env"] = environment(options)
    return body


def run(context: Context, options: Options, words: list[str]) -> int:
    from wharfie.cli import terminal

    timing = Timing(context.debug == "timing")
    body = _body(options, words[1:])
    tty, stdin = options.on("tty"), bool(body.get("AttachStdin"))
    if tty and stdin and not terminal.is_terminal(0):
        raise InvalidArgument(
            "-t: the input device is not a TTY", hint="leave out -t, or start it from a terminal", exit_code=1
        )
    keys = detach_keys(options) if tty else ""
    if keys:
        body["DetachKeys"] = keys
    size = terminal.size() if tty else None
    if size:
        body["ConsoleSize"] = list(size)
    client = context.client
    made = client.post_json(f"/containers/{escape(words[0])}/exec", body)["Id"]
    timing.mark("create")
    if options.on("detach"):
        try:
            client.do("POST", f"/exec/{made}/start", json={"Detach": True, "Tty": tty})
        except WharfieError as e:
            return cannot_start(e)
        return 0
    from wharfie.cli.session import Session

    start: dict[str, Any] = {"Detach": False, "Tty": tty}
    if size:
        start["ConsoleSize"] = list(size)
    try:
        stream = client.open("POST", f"/exec/{made}/start", json=start, headers=UPGRADE).connection
    except WharfieError as e:
        return cannot_start(e)
    timing.mark("start")
    session = Session(stream, tty=tty, stdin=stdin, detach_keys=keys)
    if tty:
        session.on_resize = lambda rows, columns: resize(client, f"/exec/{made}/resize", rows, columns)
        if size:
            resize(client, f"/exec/{made}/resize", *size)
    session.run()
    timing.mark("run")
    if session.detached:
        return 0
    if session.ended_by:
        return exit_codes.SIGNALLED + session.ended_by
    code = _exit_code(context, made)
    timing.mark("exit")
    timing.report(client.timings)
    return code


def _exit_code(context: Context, made: str) -> int:
    """The stream may end a moment before the process is reaped."""
    from time import monotonic, sleep

    deadline, pause = monotonic() + 10, 0.001
    while True:
        try:
            state = context.client.get_json(f"/exec/{made}/json")
        except NotFound:  # the container was removed with it
            return exit_codes.SIGNALLED + 9
        if not state["Running"] and state["ExitCode"] is not None:
            return int(state["ExitCode"])
        if monotonic() > deadline:  # a child of it holds no stream but lives on
            return int(state["ExitCode"] or 0)
        sleep(pause)
        pause = min(pause * 2, 0.05)


EXEC = Command(
    run,
    "[OPTIONS] CONTAINER COMMAND [ARG...]",
    "Run a command in a running container",
    flags=(
        ("detach", "d", "bool", "Run it in the background"),
        ("detach-keys", "", "string", "Keys that detach this terminal (default ctrl-p,ctrl-q)"),
        ("env", "e", "list", "Set an environment variable (KEY=VALUE, or KEY to pass this shell's)"),
        ("env-file", "", "list", "Read environment variables from a file"),
        ("interactive", "i", "bool", "Keep stdin open"),
        ("privileged", "", "bool", "Give the command all privileges"),
        ("tty", "t", "bool", "Give it a terminal"),
        ("user", "u", "string", "User to run as (NAME|UID[:GROUP|GID])"),
        ("workdir", "w", "string", "Working directory"),
    ),
    least=2,
    most=None,
    interspersed=False,
)
