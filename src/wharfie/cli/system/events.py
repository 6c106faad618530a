# SPDX-License-Identifier: Apache-2.0
"""`events`: what happens in the engine, as it happens."""

from __future__ import annotations

import sys
import time

from wharfie.cli.command import Command
from wharfie.cli.times import timestamp
from wharfie.cli.values import filters
from wharfie.client.engine import values
from wharfie.client.http import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Context, Options


def run(context: Context, options: Options, _words: list[str]) -> int:
    render: Any = _line
    if fmt := options.text("format"):
        from wharfie.cli.inspect import _template

        render = _template(fmt)
    response = context.client.open(
        "GET",
        query(
            "/events",
            since=timestamp(options.text("since"), "--since"),
            until=timestamp(options.text("until"), "--until"),
            filters=filters(options.items("filter")),
        ),
    )
    for event in values(response.chunks()):
        sys.stdout.write(f"{render(event)}\n")
        sys.stdout.flush()
    return 0


def _line(event: dict[str, Any]) -> str:
    """`2026-01-02T15:04:05.000000000+01:00 container start <id> (image=…, name=…)`."""
    nano = event.get("timeNano") or event.get("time", 0) * 10**9
    seconds, rest = divmod(nano, 10**9)
    zone = time.strftime("%z", time.localtime(seconds))
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds)) + f".{rest:09d}"
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    shown = ", ".join(f"{k}={attributes[k]}" for k in sorted(attributes))
    text = f"{when}{zone} {event.get('Type', '')} {event.get('Action') or event.get('status', '')} {actor.get('ID') or event.get('id', '')}"  # fmt: skip
    return f"{text} ({shown})" if shown else text


EVENTS = Command(
    run,
    "[OPTIONS]",
    "Show what happens in the engine, as it happens",
    flags=(
        ("filter", "f", "filter[]", "Only those that match (container=…, event=…, type=…, label=…, image=…)"),
        ("format", "", "string", "json, or a Go template"),
        ("since", "", "string", "From this time on, past events too"),
        ("until", "", "string", "Up to this time, then leave"),
    ),
)
