# SPDX-License-Identifier: Apache-2.0
"""`create`: `run` without the running."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.container.body import create_body
from wharfie.cli.container.flags import CREATE_FLAGS
from wharfie.cli.container.run import create
from wharfie.cli.say import out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Context, Options


def run(context: Context, options: Options, words: list[str]) -> int:
    out(create(context, options, create_body(options, words[0], words[1:])))
    return 0


CREATE = Command(
    run,
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Make a container without starting it",
    flags=CREATE_FLAGS,
    least=1,
    most=None,
    interspersed=False,
)
