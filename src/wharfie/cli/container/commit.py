# SPDX-License-Identifier: Apache-2.0
"""`commit`, `diff`, `export`: what became of a container's files."""

from __future__ import annotations

from wharfie.cli import files, names
from wharfie.cli.command import Command
from wharfie.cli.say import out
from wharfie.client.http import escape, query
from wharfie.errdefs import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Context, Options


def _commit(context: Context, options: Options, words: list[str]) -> int:
    name, tag = names.split(words[1]) if len(words) > 1 else ("", "")
    if len(words) > 1 and "@" in words[1]:
        raise InvalidArgument(f"commit as `{words[1]}`: a name can't have a digest here")
    target = query(
        "/commit",
        container=words[0],
        repo=name,
        tag=tag,
        author=options.text("author"),
        comment=options.text("message"),
        changes=options.items("change"),
    )
    target += f"&pause={'1' if options.on('pause') else '0'}"
    out(context.client.post_json(target, {})["Id"])
    return 0


def _diff(context: Context, _options: Options, words: list[str]) -> int:
    for change in context.client.get_json(f"/containers/{escape(words[0])}/changes") or ():
        out(f"{'CAD'[change['Kind']]} {change['Path']}")
    return 0


def _export(context: Context, options: Options, words: list[str]) -> int:
    path = options.text("output")
    if not path:
        files.refuse_terminal("export", "-o")
    files.write(path, context.client.open("GET", f"/containers/{escape(words[0])}/export").chunks())
    return 0


COMMIT = Command(
    _commit,
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    "Make an image from a container's changes",
    flags=(
        ("author", "a", "string", "Author to keep with it (NAME <MAIL>)"),
        ("change", "c", "list", "Dockerfile instruction to apply"),
        ("message", "m", "string", "Comment to keep with it"),
        ("pause", "p", "bool", "Freeze the container meanwhile", True),
    ),
    least=1,
    most=2,
)
DIFF = Command(_diff, "CONTAINER", "List the files that a container changed", least=1, most=1)
EXPORT = Command(
    _export,
    "[OPTIONS] CONTAINER",
    "Write a container's files as a tar archive",
    flags=(("output", "o", "string", "Write to a file instead of stdout"),),
    least=1,
    most=1,
)
