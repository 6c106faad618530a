# SPDX-License-Identifier: Apache-2.0
"""`push`."""

from __future__ import annotations

from wharfie.cli import names, progress
from wharfie.cli.command import Command
from wharfie.cli.say import err, out
from wharfie.client.credentials import auth_header
from wharfie.client.http import escape, query
from wharfie.errdefs import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Context, Options


def run(context: Context, options: Options, words: list[str]) -> int:
    image = words[0]
    name, tag = names.split(image)
    every = options.on("all-tags")
    if not options.on("disable-content-trust"):
        raise InvalidArgument("--disable-content-trust=false: content trust is not supported")
    if "@" in image:
        raise InvalidArgument(f"push `{image}`: a digest can't be pushed", hint="give it a tag first: wharfie tag")
    if every and tag:
        raise InvalidArgument(f"push -a `{image}`: a tag can't be given along with -a")
    if not tag and not every:
        tag = "latest"
        if not options.on("quiet"):
            err("no tag given, taking `latest`")
    platform = options.text("platform")
    response = context.client.call(
        "POST",
        query(
            f"/images/{escape(name, b'/:')}/push",
            tag=None if every else tag,
            platform=_platform(platform) if platform else None,
        ),
        # An engine insists on the header; "{}" says that there is no account.
        headers=auth_header(name) or [("X-Registry-Auth", "e30=")],
    )
    progress.show(response.chunks(), quiet=options.on("quiet"))
    if options.on("quiet"):
        out(names.full(image) if not every else name)
    return 0


def _platform(text: str) -> str:
    from wharfie.client.jsontext import dumps

    parts = text.split("/")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise InvalidArgument(f"--platform `{text}`: want os/arch[/variant]")
    return dumps(dict(zip(("os", "architecture", "variant"), parts, strict=False)))


PUSH = Command(
    run,
    "[OPTIONS] NAME[:TAG]",
    "Upload an image to a registry",
    flags=(
        ("all-tags", "a", "bool", "All tags of the repository"),
        ("disable-content-trust", "", "bool", "@content trust is not supported", True),
        ("platform", "", "string", "Only this platform of the image (os/arch[/variant])"),
        ("quiet", "q", "bool", "Say only the name of the image"),
    ),
    least=1,
    most=1,
)
