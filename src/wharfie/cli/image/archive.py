# SPDX-License-Identifier: Apache-2.0
"""`save`, `load`, `import`: images as archives."""

from __future__ import annotations

import os

from wharfie.cli import files, names, progress
from wharfie.cli.command import Command
from wharfie.cli.say import out
from wharfie.client.http import query
from wharfie.errdefs import InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Context, Options


def _platform_parameter(options: Options) -> str | None:
    if not options.text("platform"):
        return None
    from wharfie.cli.image.push import _platform

    return _platform(options.text("platform"))


def _save(context: Context, options: Options, words: list[str]) -> int:
    path = options.text("output")
    if not path:
        files.refuse_terminal("save", "-o")
    target = query("/images/get", names=words, platform=_platform_parameter(options))
    files.write(path, context.client.open("GET", target).chunks())
    return 0


def _load(context: Context, options: Options, _words: list[str]) -> int:
    path = options.text("input")
    if not path and os.isatty(0):
        raise InvalidArgument("load: no archive given", hint="use -i FILE, or redirect one to stdin")
    quiet = options.on("quiet") or not os.isatty(1)
    target = query("/images/load", quiet=quiet, platform=_platform_parameter(options))
    response = context.client.open("POST", target, body=files.read(path), content_type="application/x-tar")
    if "json" in response.headers.get("content-type", ""):
        progress.show(response.chunks())
    else:
        files.write("", response.chunks())
    return 0


def _import(context: Context, options: Options, words: list[str]) -> int:
    source = words[0]
    name, tag = names.split(words[1]) if len(words) > 1 else ("", "")
    remote = source.startswith(("http://", "https://"))
    if remote:
        raise Unsupported(f"import `{source}`: addresses are not fetched", hint="curl -L ADDRESS | wharfie import -")
    target = query(
        "/images/create",
        fromSrc="-",
        repo=name,
        tag=tag,
        message=options.text("message"),
        changes=options.items("change"),
        platform=options.text("platform"),
    )
    response = context.client.open("POST", target, body=files.read(source), content_type="application/x-tar")
    for line in progress.collected(response.chunks()):
        out(line)
    return 0


_PLATFORM = ("platform", "", "string", "Only this platform (os/arch[/variant])")
SAVE = Command(
    _save,
    "[OPTIONS] IMAGE [IMAGE...]",
    "Write images as an archive",
    flags=(("output", "o", "string", "Write to a file instead of stdout"), _PLATFORM),
    least=1,
    most=None,
)
LOAD = Command(
    _load,
    "[OPTIONS]",
    "Load images from an archive",
    flags=(
        ("input", "i", "string", "Read a file instead of stdin"),
        _PLATFORM,
        ("quiet", "q", "bool", "Say only the names"),
    ),
)
IMPORT = Command(
    _import,
    "[OPTIONS] FILE|- [REPOSITORY[:TAG]]",
    "Make an image from a tar archive of files",
    flags=(
        ("change", "c", "list", "Dockerfile instruction to apply"),
        ("message", "m", "string", "Comment to keep with it"),
        ("platform", "", "string", "Platform of the image (os/arch[/variant])"),
    ),
    least=1,
    most=2,
)
