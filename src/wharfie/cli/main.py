# SPDX-License-Identifier: Apache-2.0
"""`wharfie`: global flags, dispatch, and errors turned into words and exit codes."""

from __future__ import annotations

import os
import sys

from wharfie.cli.command import Context, UsageError
from wharfie.cli.commands import COMMANDS, COMMON, LATER, NOUNS, entry, load
from wharfie.cli.flags import HelpWanted, nearest, parse
from wharfie.errdefs import InvalidArgument, WharfieError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Command, Options

GLOBAL = (
    ("config", "", "string", "Directory of the client's config files (default ~/.docker)"),
    ("context", "c", "string", "@of docker; only the default one exists here"),
    ("debug", "D", "word?", "Show more; =timing shows where the time of a command goes"),
    ("host", "H", "list", "Address of the engine (unix://PATH or tcp://HOST:PORT)"),
    ("log-level", "l", "string", "@accepted for docker's sake: the client writes no log", "info"),
    ("namespace", "n", "string", "Namespace to work in", ""),
    ("version", "v", "bool", "Print the version and leave"),
)


def main() -> int:
    """Never returns in a process of its own: tearing the interpreter down costs 2 ms that nobody needs."""
    _need_standard_streams()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or 1
    except OSError as e:
        sys.stderr.write(f"wharfie: write to stdout: {_os_error(e)}\n")
        code = code or 1
    sys.stderr.flush()
    os._exit(code)


def _need_standard_streams() -> None:
    """Where a standard descriptor is closed, the next socket would become it, and take what is meant for the terminal."""
    for fd, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is fd
            setattr(sys, name, open(fd, "r" if fd == 0 else "w", encoding="utf-8"))  # noqa: SIM115
        elif fd:
            getattr(sys, name).reconfigure(errors="replace")  # names of containers are not worth a crash in LANG=en_US


def run(words: list[str]) -> int:
    """One command line, to its exit code."""
    context = Context()
    try:
        options, rest = parse(GLOBAL, words, interspersed=False)
        return _with_globals(context, options, rest)
    except HelpWanted:
        sys.stdout.write(_overview())
        return 0
    except UsageError as e:
        return _complain(
            f"{e}\n\nUsage:  wharfie [OPTIONS] COMMAND [ARG...]\n\nRun 'wharfie --help' for more information", e.code
        )
    except WharfieError as e:
        return _complain(f"wharfie: {e.full()}", 1)


def _with_globals(context: Context, options: Options, words: list[str]) -> int:
    if options.on("version"):
        from wharfie import __version__

        sys.stdout.write(f"wharfie version {__version__}\n")
        return 0
    hosts = options.items("host")
    if len(hosts) > 1:
        raise InvalidArgument("-H was given more than once", hint="a client talks to one engine")
    if options.text("context") not in ("", "default"):
        raise InvalidArgument(
            f"context `{options.text('context')}`: wharfie has no contexts yet", hint="use -H or WHARFIE_HOST"
        )
    context.host = hosts[0] if hosts else ""
    context.namespace = options.text("namespace") or os.environ.get("WHARFIE_NAMESPACE", "")
    if options.text("config"):
        from wharfie.client.credentials import use_directory

        use_directory(options.text("config"))
    context.debug = options.text("debug").removesuffix("false")
    return dispatch(context, words)


def dispatch(context: Context, words: list[str]) -> int:
    found = entry(words)
    if found is None:
        return _not_a_command(words)
    target, count = found
    context.path = f"wharfie {' '.join(words[:count])}"
    command = load(target)
    try:
        options, operands = parse(command.flags, words[count:], interspersed=command.interspersed)
        _check_count(context.path, command, len(operands))
        return command.run(context, options, operands)
    except HelpWanted:
        from wharfie.cli.usage import command_help

        sys.stdout.write(command_help(context.path, command))
        return 0
    except UsageError as e:
        from wharfie.cli.usage import usage_line

        return _complain(
            f"{e}\n\n{usage_line(context.path, command)}\n\nRun '{context.path} --help' for more information", e.code
        )
    except WharfieError as e:
        code = e.fields.get("exit_code")
        return _complain(f"wharfie: {e.full()}", code if isinstance(code, int) else command.engine_fault)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as e:
        return _complain(f"wharfie: {_os_error(e)}", command.engine_fault)


def _check_count(path: str, command: Command, count: int) -> None:
    least, most = command.least, command.most
    if count < least or (most is not None and count > most):
        if most == 0:
            wants = "accepts no arguments"
        elif least == most:
            wants = f"requires {least} argument{'s'[: least != 1]}"
        elif count < least:
            wants = f"requires at least {least} argument{'s'[: least != 1]}"
        else:
            wants = f"requires at most {most} argument{'s'[: most != 1]}"
        raise UsageError(f"wharfie: '{path}' {wants}", 1)


def _os_error(e: OSError) -> str:
    cause = e.strerror.lower() if e.strerror else str(e)
    return f"`{e.filename}`: {cause}" if e.filename else cause


def _not_a_command(words: list[str]) -> int:
    if not words or words == ["help"]:
        sys.stdout.write(_overview())
        return 0
    first = words[0]
    if first == "help":
        return dispatch(Context(), [*words[1:], "--help"])
    if first in NOUNS:
        summary, verbs = NOUNS[first]
        if len(words) == 1 or words[1] in ("--help", "-h", "help"):
            from wharfie.cli.usage import noun_help

            sys.stdout.write(noun_help(first, summary, [(v, t) for v, (_, t) in verbs.items()]))
            return 0
        if words[1].startswith("-"):
            return _complain(f"unknown flag: {words[1]}\n\nRun 'wharfie {first} --help' for more information", 125)
        return _unknown(f"{first} {words[1]}", nearest(words[1], verbs), first)
    if first in LATER:
        return _complain(f"wharfie: `{first}`: {LATER[first]} comes in a later version of wharfie", 1)
    return _unknown(first, nearest(first, [*COMMANDS, *NOUNS]), "")


def _unknown(words: str, near: str, noun: str) -> int:
    place = f"wharfie {noun}".rstrip()
    guess = f"Did you mean '{place} {near}'?\n" if near else ""
    return _complain(
        f"wharfie: unknown command: wharfie {words}\n{guess}\nRun '{place} --help' for more information", 1
    )


def _complain(text: str, code: int) -> int:
    from wharfie.cli.say import err

    err(text)
    return code


def _overview() -> str:
    from wharfie.cli.usage import flag_lines, two_columns

    common = [(name, COMMANDS[name][1]) for name in COMMON]
    others = [(name, COMMANDS[name][1]) for name in sorted(COMMANDS) if name not in COMMON]
    return (
        "Usage:  wharfie [OPTIONS] COMMAND\n\nA complete container engine\n\n"
        f"Common Commands:\n{two_columns(common)}\n\n"
        f"Management Commands:\n{two_columns([(n, s) for n, (s, _) in NOUNS.items()])}\n\n"
        f"Commands:\n{two_columns(others)}\n\nGlobal Options:\n{flag_lines(GLOBAL)}\n\n"
        "Run 'wharfie COMMAND --help' for more information on a command.\n"
    )
