# SPDX-License-Identifier: Apache-2.0
"""`cp`: files between a container and this machine, or a tar stream.

The engine speaks tar archives of one path. Naming follows cp -a: into an existing directory, else under the new name; a
source that ends in `/.` means the directory's content.
"""

from __future__ import annotations

import os

from wharfie.cli import files
from wharfie.cli.command import Command
from wharfie.cli.say import err
from wharfie.client import jsontext
from wharfie.client.http import escape, query
from wharfie.errdefs import InvalidArgument, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Context, Options

_DIR = 1 << 31  # Go's fs.ModeDir
_LINK = 1 << 27


def split(text: str) -> tuple[str, str]:
    """(container, path); no container for a local path: absolute, relative with a dot, or without a colon."""
    if os.path.isabs(text) or text == "-":
        return "", text
    container, colon, path = text.partition(":")
    if not colon or container.startswith("."):
        return "", text
    return container, path


def run(context: Context, options: Options, words: list[str]) -> int:
    (source_container, source), (target_container, target) = split(words[0]), split(words[1])
    if source_container and target_container:
        raise InvalidArgument(
            "cp: both ends are containers", hint="copy to this machine first, or pipe: … cp A:P - | … cp - B:P"
        )
    if not source_container and not target_container:
        raise InvalidArgument("cp: neither end is a container", hint="name one as CONTAINER:PATH")
    if not source or not target:
        raise InvalidArgument("cp: an empty path")
    if source_container:
        count = _from_container(context, options, source_container, source, target)
    else:
        count = _to_container(context, options, source, target_container, target)
    if os.isatty(2) and not options.on("quiet") and "-" not in (words[0], words[1]):
        from wharfie.cli.format.human import size

        err(f"Successfully copied {size(count)} to {os.path.abspath(target) if source_container else words[1]}")
    return 0


def _stat(context: Context, container: str, path: str) -> dict[str, Any]:
    import binascii

    response = context.client.call("HEAD", query(f"/containers/{escape(container)}/archive", path=path))
    stat: dict[str, Any] = jsontext.loads(binascii.a2b_base64(response.headers["x-docker-container-path-stat"]))
    return stat


def _resolved(context: Context, container: str, path: str) -> tuple[str, dict[str, Any]]:
    """The path with a last symbolic link followed, and what is there. Raises: NotFound."""
    path = path if path.startswith("/") else f"/{path}"
    for _ in range(40):
        stat = _stat(context, container, path)
        if not stat["mode"] & _LINK:
            return path, stat
        link = stat["linkTarget"]
        path = link if link.startswith("/") else os.path.normpath(os.path.join(os.path.dirname(path), link))
    raise InvalidArgument(f"cp: `{container}:{path}`: too many symbolic links")


def _from_container(context: Context, options: Options, container: str, source: str, target: str) -> int:
    path = source if source.startswith("/") else f"/{source}"
    if options.on("follow-link"):
        path, _ = _resolved(context, container, path)
    response = context.client.open("GET", query(f"/containers/{escape(container)}/archive", path=path))
    if target == "-":
        files.refuse_terminal("cp", "a file name, or")
        files.write("-", response.chunks())
        return 0
    import binascii

    from wharfie.cli.container.unpack import unpack

    stat = jsontext.loads(binascii.a2b_base64(response.headers["x-docker-container-path-stat"]))
    is_directory = bool(stat["mode"] & _DIR)
    content = source.endswith("/.")
    top = os.path.basename(path.rstrip("/").removesuffix("/.")) or "."
    if os.path.isdir(target):
        where, name = target, "" if content else os.path.basename(source.rstrip("/")) or ""
    else:
        if target.endswith("/") and not is_directory:
            raise InvalidArgument(f"cp: `{target}`: there is no such directory")
        parent = os.path.dirname(target.rstrip("/")) or "."
        if not os.path.isdir(parent):
            raise InvalidArgument(f"cp: `{parent}`: there is no such directory")
        if os.path.lexists(target) and is_directory:
            raise InvalidArgument(f"cp: `{target}`: a directory can't replace a file")
        where, name = parent, os.path.basename(target.rstrip("/"))
    return unpack(response.chunks(), where, top=top, name=name, owners=options.on("archive"))


def _to_container(context: Context, options: Options, source: str, container: str, target: str) -> int:
    archive = f"/containers/{escape(container)}/archive"
    if source == "-":
        context.client.open("PUT", query(archive, path=target), body=files.read("-"), content_type="application/x-tar")
        return 0
    local = os.path.realpath(source) if options.on("follow-link") else source
    try:
        is_directory = os.path.isdir(local) if not os.path.islink(local) or source.endswith("/") else False
        os.lstat(local)
    except OSError as e:
        raise InvalidArgument(f"cp: `{source}`: {(e.strerror or str(e)).lower()}") from e
    content = source.endswith("/.") or source == "."
    name = os.path.basename(os.path.abspath(local))
    try:
        where, stat = _resolved(context, container, target)
        into = bool(stat["mode"] & _DIR)
    except NotFound:
        where, stat, into = (target if target.startswith("/") else f"/{target}"), {}, False
        if target.endswith("/") and not is_directory:
            raise
    if into:
        name = "" if content else name
    else:
        if stat and is_directory:
            raise InvalidArgument(f"cp: `{container}:{target}`: a directory can't replace a file")
        where, name = os.path.split(where.rstrip("/"))
    from wharfie.cli.container.unpack import pack

    counted = [0]
    body = pack(local, name or ".", counted)
    flags = query(archive, path=where or "/", noOverwriteDirNonDir=True, copyUIDGID=options.on("archive"))
    context.client.open("PUT", flags, body=body, content_type="application/x-tar")
    return counted[0]


CP = Command(
    run,
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n        wharfie cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    "Copy files between a container and this machine",
    detail="Copy files between a container and this machine\n\n`-` as the source reads a tar archive from stdin and unpacks it in a directory of the\n"
    "container; as the destination it writes one to stdout.",
    flags=(
        ("archive", "a", "bool", "Keep owner and group"),
        ("follow-link", "L", "bool", "Follow a symbolic link as the source"),
        ("quiet", "q", "bool", "Don't say how much was copied"),
    ),
    least=2,
    most=2,
)
