# SPDX-License-Identifier: Apache-2.0
"""`top`: the processes of a container."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.format.tables import lines
from wharfie.cli.say import out
from wharfie.client.http import escape, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Context, Options


def run(context: Context, _options: Options, words: list[str]) -> int:
    answer = context.client.get_json(query(f"/containers/{escape(words[0])}/top", ps_args=" ".join(words[1:])))
    for line in lines(answer["Titles"], answer["Processes"] or [], least=20):
        out(line)
    return 0


TOP = Command(
    run, "CONTAINER [ps OPTIONS]", "Show the processes of a container", least=1, most=None, interspersed=False
)
