# SPDX-License-Identifier: Apache-2.0
"""`pull`."""

from __future__ import annotations

from wharfie.cli.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Context, Options


def pull(context: Context, image: str, *, platform: str = "", quiet: bool = False, to_stderr: bool = False) -> None:
    """Raises: WharfieError of the engine or the registry."""
    from wharfie.cli import names, progress
    from wharfie.client.credentials import auth_header
    from wharfie.client.http import query

    name, tag = names.split(image)
    response = context.client.call(
        "POST",
        query("/images/create", fromImage=name, tag=tag or "latest", platform=platform),
        headers=auth_header(name),
    )
    progress.show(response.chunks(), quiet=quiet, fd=2 if to_stderr else 1)


def run(context: Context, options: Options, words: list[str]) -> int:
    from wharfie.cli import names
    from wharfie.cli.say import err, out
    from wharfie.errdefs import InvalidArgument

    image = words[0]
    tag = names.split(image)[1]
    if options.on("all-tags"):
        from wharfie.errdefs import Unsupported

        if tag:
            raise InvalidArgument(f"pull -a `{image}`: a tag can't be given along with -a")
        raise Unsupported("pull -a: pulling all tags is not supported yet", hint="name the tags you need")
    if not options.on("disable-content-trust"):
        raise InvalidArgument(
            "--disable-content-trust=false: content trust is not supported", hint="pin the image by digest"
        )
    if not tag and not options.on("quiet"):
        err("no tag given, taking `latest`")
    pull(context, image, platform=options.text("platform"), quiet=options.on("quiet"))
    out(names.full(image))
    return 0


PULL = Command(
    run,
    "[OPTIONS] NAME[:TAG|@DIGEST]",
    "Download an image from a registry",
    flags=(
        ("all-tags", "a", "bool", "Download all tags of the repository"),
        ("disable-content-trust", "", "bool", "@content trust is not supported", True),
        ("platform", "", "string", "Platform of the image (os/arch[/variant])"),
        ("quiet", "q", "bool", "Say only the name of the image"),
    ),
    least=1,
    most=1,
)
