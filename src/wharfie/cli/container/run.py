# SPDX-License-Identifier: Apache-2.0
"""`run`: create, attach, wait, start; then the container's streams are the user's until it ends.

Attach and wait are sent together on connections of their own, and both are answered before start goes out, so no byte
and no exit can be missed. The image is only pulled when create says that it is missing.
"""

from __future__ import annotations

from wharfie.cli import exit as exit_codes
from wharfie.cli.command import Command
from wharfie.cli.container.body import create_body, needs_api
from wharfie.cli.container.flags import RUN_FLAGS
from wharfie.cli.say import err, out
from wharfie.cli.timing import Timing
from wharfie.client.http import query
from wharfie.errdefs import NotFound, Unavailable, Unsupported, WharfieError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Context, Options
    from wharfie.client.engine import Client
    from wharfie.client.http import Response

UPGRADE = (("Connection", "Upgrade"), ("Upgrade", "tcp"))


def run(context: Context, options: Options, words: list[str]) -> int:
    timing = Timing(context.debug == "timing")
    body = create_body(options, words[0], words[1:])
    if options.on("detach"):
        container = create(context, options, body)
        timing.mark("create")
        code = _start_detached(context.client, container)
        timing.mark("start")
        timing.report(context.client.timings)
        return code
    tty = options.on("tty")
    if tty:
        _need_terminal(body)
    timing.mark("parse")
    container = create(context, options, body)
    timing.mark("create")
    try:
        return _attached(context.client, options, body, container, timing)
    finally:
        timing.report(context.client.timings)


def _start_detached(client: Client, container: str) -> int:
    try:
        client.do("POST", f"/containers/{container}/start")
    except WharfieError as e:
        return cannot_start(e)
    out(container)
    return 0


def _need_terminal(body: dict[str, Any]) -> None:
    from wharfie.cli import terminal
    from wharfie.errdefs import InvalidArgument

    if body.get("AttachStdin") and not terminal.is_terminal(0):
        raise InvalidArgument(
            "-t: the input device is not a TTY", hint="leave out -t, or start it from a terminal", exit_code=1
        )
    if size := terminal.size():
        body["HostConfig"]["ConsoleSize"] = list(size)


def create(context: Context, options: Options, body: dict[str, Any]) -> str:
    """The id of the container made; pulls the image when it is missing and --pull allows."""
    client = context.client
    if since := needs_api(options):
        _check_api(client, options, since)
    pull = options.text("pull")
    if pull == "always":
        _pull(context, options, body["Image"])
    target = query("/containers/create", name=options.text("name"), platform=options.text("platform"))
    try:
        answer = client.post_json(target, body)
    except NotFound as e:
        if pull != "missing" or not _is_about(e, body["Image"]):
            raise
        if not options.on("quiet"):
            err(f"image `{body['Image']}` is not here yet, pulling it")
        _pull(context, options, body["Image"])
        answer = client.post_json(target, body)
    container: str = answer["Id"]
    for warning in answer.get("Warnings") or ():
        err(f"WARNING: {warning}")
    if cidfile := options.text("cidfile"):
        with open(cidfile, "x", encoding="ascii") as f:
            f.write(container)
    return container


def _is_about(e: NotFound, image: str) -> bool:
    """A create can also miss a network, a volume or another container; pulling would only hide that."""
    kind = e.fields.get("kind")
    return kind == "image" if kind else "image" in e.message.lower() or image in e.message


def _check_api(client: Client, options: Options, since: int) -> None:
    client.do("GET", "/_ping")
    major, _, minor = client.server_version.partition(".")
    if major == "1" and minor.isdecimal() and int(minor) < since:
        flag = next(
            f for f, s in (("annotation", 43), ("health-start-interval", 44)) if f in options.given and s == since
        )
        raise Unsupported(f"--{flag}: needs an engine with API 1.{since}, this one has {client.server_version}")


def _pull(context: Context, options: Options, image: str) -> None:
    from wharfie.cli.image.pull import pull

    pull(context, image, platform=options.text("platform"), quiet=options.on("quiet"), to_stderr=True)


def _attached(client: Client, options: Options, body: dict[str, Any], container: str, timing: Timing) -> int:
    from wharfie.cli.session import Session

    tty, stdin = options.on("tty"), bool(body.get("AttachStdin"))
    stdout, stderr = bool(body["AttachStdout"]), bool(body["AttachStderr"])
    keys = detach_keys(options) if tty else ""
    removes = options.on("rm")
    attach = client.begin(
        "POST",
        query(
            f"/containers/{container}/attach", stream=True, stdin=stdin, stdout=stdout, stderr=stderr, detachKeys=keys
        ),
        headers=UPGRADE,
    )
    wait = client.begin("POST", f"/containers/{container}/wait?condition={'removed' if removes else 'next-exit'}")
    client.finish(attach)
    waiting = client.finish(wait)
    timing.mark("attach")
    session = Session(attach, tty=tty, stdin=stdin, stdout=stdout, stderr=stderr, detach_keys=keys)
    if options.on("sig-proxy"):
        session.on_signal = lambda name: client.do("POST", f"/containers/{container}/kill?signal={name}").discard()
    if tty:
        session.on_resize = lambda rows, columns: resize(client, f"/containers/{container}/resize", rows, columns)
    session.catch_signals()
    try:
        client.do("POST", f"/containers/{container}/start")
    except WharfieError as e:
        attach.close()
        if removes:  # the engine removes it; the prompt comes back when it is gone
            waiting.discard()
        return cannot_start(e)
    timing.mark("start")
    if tty:
        from wharfie.cli import terminal

        if size := terminal.size():
            resize(client, f"/containers/{container}/resize", *size)
    session.run(until=wait)
    timing.mark("run")
    if session.detached:
        out()
        return 0
    if session.ended_by:
        return exit_codes.SIGNALLED + session.ended_by
    code = exit_code(client, container, waiting)
    timing.mark("exit")
    return code


def cannot_start(e: WharfieError) -> int:
    err(f"wharfie: {e.full()}")
    return exit_codes.of_start_error(e)


def resize(client: Client, target: str, rows: int, columns: int) -> None:
    """A container that is just starting or ending may refuse: the next change of size comes, or nobody looks any more."""
    try:
        client.do("POST", f"{target}?h={rows}&w={columns}")
    except WharfieError:
        return


def detach_keys(options: Options) -> str:
    from wharfie.cli import terminal

    keys = options.text("detach-keys")
    if not keys:
        from wharfie.client.credentials import load_config

        keys = str(load_config().get("detachKeys") or "")
    if keys:
        terminal.keys(keys)
    return keys


def exit_code(client: Client, container: str, waiting: Response) -> int:
    """The answer of wait. An engine that was restarted meanwhile is asked again: the container did not notice it."""
    from time import monotonic, sleep

    deadline = monotonic() + 20
    while True:
        try:
            answer = client.json_of(waiting)
            if answer is None:
                raise Unavailable("wait for the container: the engine went away")
            if message := (answer.get("Error") or {}).get("Message"):
                err(f"wharfie: wait for container `{container[:12]}`: {message}")
                return exit_codes.ENGINE
            return int(answer["StatusCode"])
        except (Unavailable, ValueError, OSError):
            if monotonic() > deadline:
                raise
        while True:
            try:
                waiting = client.open("POST", f"/containers/{container}/wait")
                break
            except Unavailable:
                if monotonic() > deadline:
                    raise
                sleep(0.05)


RUN = Command(
    run,
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Make a container from an image and start it",
    flags=RUN_FLAGS,
    least=1,
    most=None,
    interspersed=False,
    engine_fault=exit_codes.ENGINE,
)
