# SPDX-License-Identifier: Apache-2.0
"""`inspect` in all its forms: what the engine knows of an object, as JSON or by a template."""

from __future__ import annotations

import sys

from wharfie.cli.command import Command
from wharfie.cli.say import err, out
from wharfie.client.http import escape, query
from wharfie.errdefs import InvalidArgument, NotFound, WharfieError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Context, Options, Run

_PATHS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
    "exec": "/exec/{}/json",
}
_ORDER = ("container", "image", "network", "volume")


def _find(context: Context, kind: str, name: str, *, size: bool) -> Any:
    for k in (kind,) if kind else _ORDER:
        path = _PATHS[k].format(escape(name, b"/:@" if k == "image" else b""))
        try:
            return context.client.get_json(query(path, size=size) if k == "container" else path)
        except NotFound:
            if kind:
                raise
        except InvalidArgument:
            # A name with a slash or colon can only be an image: other kinds refuse it before looking.
            if kind:
                raise
    raise NotFound(f"inspect `{name}`: there is no such object")


def _command(kind: str) -> Run:
    def run(context: Context, options: Options, words: list[str]) -> int:
        of = kind
        if not kind and (wanted := options.text("type")):
            if wanted not in _PATHS:
                raise InvalidArgument(f"--type `{wanted}`: want {', '.join(_ORDER)}")
            of = wanted
        size = kind in ("", "container") and options.on("size")
        template = _template(options.text("format"))
        code, found = 0, []
        for word in words:
            try:
                value = _find(context, of, word, size=size)
            except WharfieError as e:
                err_later = e
                code = 1
                if template is None:
                    break
                err(f"wharfie: {err_later.full()}")
                continue
            if template is None:
                found.append(value)
            else:
                out(template(value))
        if template is None:
            from wharfie.client.jsontext import dumps_pretty

            sys.stdout.write(dumps_pretty(found) + "\n")
            if code:
                err(f"wharfie: {err_later.full()}")
        return code

    return run


def _template(fmt: str) -> Any:
    if not fmt:
        return None
    if fmt == "json":
        from wharfie.client.jsontext import dumps_readable

        return dumps_readable
    from wharfie.cli.format.tables import unescape
    from wharfie.cli.format.template import Template

    return Template(unescape(fmt)).render


_FORMAT = ("format", "f", "string", "json, or a Go template")
_SIZE = ("size", "s", "bool", "Sizes of containers too")
ANY = Command(
    _command(""),
    "[OPTIONS] NAME|ID [NAME|ID...]",
    "Show everything known about an object",
    flags=(_FORMAT, _SIZE, ("type", "", "string", "Look only for this kind (container|image|network|volume)")),
    least=1,
    most=None,
)
CONTAINER = Command(
    _command("container"),
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Show everything known about containers",
    flags=(_FORMAT, _SIZE),
    least=1,
    most=None,
)
IMAGE = Command(
    _command("image"),
    "[OPTIONS] IMAGE [IMAGE...]",
    "Show everything known about images",
    flags=(_FORMAT,),
    least=1,
    most=None,
)
NETWORK = Command(
    _command("network"),
    "[OPTIONS] NETWORK [NETWORK...]",
    "Show everything known about networks",
    flags=(_FORMAT, ("verbose", "v", "bool", "More, for finding faults")),
    least=1,
    most=None,
)
VOLUME = Command(
    _command("volume"),
    "[OPTIONS] VOLUME [VOLUME...]",
    "Show everything known about volumes",
    flags=(_FORMAT,),
    least=1,
    most=None,
)
