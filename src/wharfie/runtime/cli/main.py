# SPDX-License-Identifier: Apache-2.0
"""Arguments, errors and exit codes of `wharfie-oci`."""

from __future__ import annotations

import os
import sys

from wharfie import __version__
from wharfie.errdefs import InvalidArgument, Unsupported, WharfieError
from wharfie.runtime.cli.flags import COMMANDS, GLOBAL, Flags, parse

ROOT = "/run/wharfie-oci"

_RUN = {
    **dict.fromkeys(
        ("create", "run", "start", "exec", "kill", "delete", "pause", "resume", "update"),
        "wharfie.runtime.cli.lifecycle",
    ),
    **dict.fromkeys(("checkpoint", "restore"), "wharfie.runtime.cli.checkpoint"),
    **dict.fromkeys(("state", "list", "ps", "events", "features", "spec"), "wharfie.runtime.cli.report"),
}
_ENTERS = {"create", "run", "exec"}
"""Commands that put a process into a container: they go on from a sealed copy of the interpreter."""


def _usage() -> str:
    names = "\n".join(f"    {name}" for name in sorted(_RUN))
    flags = "\n".join(f"    --{name}" for name in sorted(GLOBAL))
    return f"wharfie-oci {__version__}: an OCI runtime\n\nusage: wharfie-oci [flags] command [flags] [arguments]\n\ncommands:\n{names}\n\nflags:\n{flags}"


def _version() -> str:
    return f"wharfie-oci version {__version__}\nspec: 1.2.0"


def _report(e: Exception, flags: Flags | None) -> None:
    """To stderr, and to --log in the form that containerd, dockerd and conmon read."""
    text = e.message if isinstance(e, WharfieError) else f"{type(e).__name__}: {e}"
    hint = e.hint if isinstance(e, WharfieError) else None
    sys.stderr.write(f"wharfie-oci: {text}\n" + (f"{hint}\n" if hint else ""))
    if flags is not None and flags.text("log"):
        write_log(flags, "error", text)


def write_log(flags: Flags, level: str, text: str) -> None:
    from wharfie.runtime.cli.store import now

    if flags.text("log-format") == "json":
        import msgspec

        line = msgspec.json.encode({"level": level, "msg": text, "time": now()}).decode()
    else:
        line = f'time="{now()}" level={level} msg="{text}"'
    try:
        with open(flags.text("log"), "a", encoding="utf-8") as f:
            f.write(line + "\n")
    except OSError as e:
        sys.stderr.write(f"wharfie-oci: write log `{flags.text('log')}`: {e.strerror}\n")


def main() -> int:
    flags: Flags | None = None
    try:
        flags, rest = parse(sys.argv[1:], GLOBAL)
        if flags.on("version"):
            print(_version())
            return 0
        if flags.on("help") or not rest or rest[0] == "help":
            print(_usage())
            return 0 if rest or flags.on("help") else 1
        return _dispatch(flags, rest[0], rest[1:])
    except (WharfieError, OSError) as e:
        _report(e, flags)
        return 1


def _dispatch(flags: Flags, command: str, args: list[str]) -> int:
    if command not in COMMANDS:
        raise InvalidArgument(f"read arguments: unknown command `{command}`", hint="wharfie-oci --help lists them")
    if sys.platform != "linux":
        raise Unsupported("run containers: wharfie-oci needs Linux")
    own, rest = parse(args, COMMANDS[command], command)
    if own.on("help"):
        print(f"usage: wharfie-oci {command} " + " ".join(f"[--{name}]" for name in COMMANDS[command]))
        return 0
    if command in _ENTERS:
        from wharfie.linux import process, sealed

        sealed.reexec()
        process.prctl(process.PR_SET_DUMPABLE, 0)
    import importlib

    module = importlib.import_module(_RUN[command])
    if not flags.text("root"):
        flags.values["root"] = os.environ.get("WHARFIE_OCI_ROOT", ROOT)
    code: int = getattr(module, command.replace("-", "_") if command not in {"exec", "list"} else command + "_")(
        flags, own, rest
    )
    return code
