# SPDX-License-Identifier: Apache-2.0
"""`logs`: what a container wrote. Hundreds of megabytes go through here: few, large writes, no line is looked at."""

from __future__ import annotations

import sys

from wharfie.cli.command import Command
from wharfie.client.frames import Splitter, write_all
from wharfie.client.http import escape, query
from wharfie.errdefs import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Context, Options
    from wharfie.client.http import Response


def run(context: Context, options: Options, words: list[str]) -> int:
    from wharfie.cli.times import timestamp

    tail = options.text("tail")
    if tail != "all" and not tail.removeprefix("-").isdecimal():
        raise InvalidArgument(f"--tail `{tail}`: want a number of lines or all")
    container = escape(words[0])
    client = context.client
    response = client.open(
        "GET",
        query(
            f"/containers/{container}/logs",
            stdout=True,
            stderr=True,
            follow=options.on("follow"),
            timestamps=options.on("timestamps"),
            details=options.on("details"),
            since=timestamp(options.text("since"), "--since"),
            until=timestamp(options.text("until"), "--until"),
            tail="all" if tail.startswith("-") else tail,
        ),
    )
    kind = response.headers.get("content-type", "")
    if kind == "application/vnd.docker.multiplexed-stream":
        tty = False
    elif kind == "application/vnd.docker.raw-stream" and not _is_old(client.server_version):
        tty = True
    else:  # engines before API 1.42 don't tell the two apart
        tty = client.get_json(f"/containers/{container}/json")["Config"]["Tty"]
    copy(response, tty=tty)
    return 0


def _is_old(version: str) -> bool:
    major, _, minor = version.partition(".")
    return major == "1" and minor.isdecimal() and int(minor) < 42


def copy(response: Response, *, tty: bool) -> None:
    """The body to stdout (and stderr, without a terminal)."""
    sys.stdout.flush()
    splitter = None if tty else Splitter(1, 2)
    if "transfer-encoding" not in response.headers and response.length is None:
        _straight(response, splitter)
        return
    for chunk in response.chunks():
        if splitter is None:
            write_all(1, [memoryview(chunk)])
        else:
            splitter.feed(chunk)
    if splitter is not None:
        splitter.close()


def _straight(response: Response, splitter: Splitter | None) -> None:
    """A body that ends with the connection: read into one buffer, write from it."""
    connection = response.connection
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    early = connection.early
    connection.early = b""
    if early:
        _pass(memoryview(early), splitter)
    while count := connection.sock.recv_into(buffer):
        _pass(view[:count], splitter)
    if splitter is not None:
        splitter.close()


def _pass(data: memoryview, splitter: Splitter | None) -> None:
    if splitter is None:
        write_all(1, [data])
    else:
        splitter.feed(data)


LOGS = Command(
    run,
    "[OPTIONS] CONTAINER",
    "Show what a container wrote",
    flags=(
        ("details", "", "bool", "Labels and variables that the log driver keeps, too"),
        ("follow", "f", "bool", "Go on as more is written"),
        ("since", "", "string", "Only from this time on (2026-01-02T15:04:05Z, or 42m: the last 42 minutes)"),
        ("tail", "n", "string", "Number of lines from the end", "all"),
        ("timestamps", "t", "bool", "Times too"),
        ("until", "", "string", "Only up to this time (2026-01-02T15:04:05Z, or 42m ago)"),
    ),
    least=1,
    most=1,
)
