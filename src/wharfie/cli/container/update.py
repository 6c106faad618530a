# SPDX-License-Identifier: Apache-2.0
"""`update`: limits of containers, while they run."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.container.body import _HOST, restart_policy
from wharfie.cli.container.flags import CREATE_FLAGS
from wharfie.cli.say import err, out
from wharfie.client.http import escape
from wharfie.errdefs import InvalidArgument, WharfieError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Context, Options

_NAMES = ("blkio-weight", "cpu-period", "cpu-quota", "cpu-rt-period", "cpu-rt-runtime", "cpu-shares", "cpus", "cpuset-cpus",
          "cpuset-mems", "kernel-memory", "memory", "memory-reservation", "memory-swap", "pids-limit", "restart")  # fmt: skip


def run(context: Context, options: Options, words: list[str]) -> int:
    if not options.given:
        raise InvalidArgument("update: nothing to change was given", hint="for example --memory 512m")
    body = {key: options.values[flag] for flag, key in _HOST if flag in options.given}
    if "restart" in options.given:
        body["RestartPolicy"] = restart_policy(options.text("restart"))
    code = 0
    for word in words:
        try:
            answer = context.client.post_json(f"/containers/{escape(word)}/update", body)
        except WharfieError as e:
            err(f"wharfie: {e.full()}")
            code = 1
            continue
        for warning in (answer or {}).get("Warnings") or ():
            err(f"WARNING: {warning}")
        out(word)
    return code


UPDATE = Command(
    run,
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Change the limits of containers",
    flags=tuple(f for f in CREATE_FLAGS if f[0] in _NAMES),
    least=1,
    most=None,
)
