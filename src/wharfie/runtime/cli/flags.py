# SPDX-License-Identifier: Apache-2.0
"""runc's flags, as tables. A flag is `--name value`, `--name=value`, or a letter; one dash does for two, as in runc."""

from __future__ import annotations

from wharfie.errdefs import InvalidArgument

# Kinds: "b" boolean, "s" string, "i" integer, "l" list of strings.
GLOBAL = {
    "debug": "b", "log": "s", "log-format": "s", "root": "s", "criu": "s", "systemd-cgroup": "b", "rootless": "s",
    "help": "b", "version": "b",
}  # fmt: skip
_CREATE = {
    "bundle": "s", "console-socket": "s", "pid-file": "s", "no-pivot": "b", "no-new-keyring": "b", "preserve-fds": "i",
    "pidfd-socket": "s",
}  # fmt: skip
_CHECKPOINT = {
    "image-path": "s", "work-path": "s", "leave-running": "b", "tcp-established": "b", "tcp-skip-in-flight": "b",
    "ext-unix-sk": "b", "shell-job": "b", "file-locks": "b", "link-remap": "b", "manage-cgroups-mode": "s",
    "empty-ns": "l", "parent-path": "s", "pre-dump": "b", "lazy-pages": "b", "page-server": "s", "status-fd": "s",
    "auto-dedup": "b", "lsm-profile": "s", "lsm-mount-context": "s",
}  # fmt: skip
COMMANDS: dict[str, dict[str, str]] = {
    "create": _CREATE,
    "run": {**_CREATE, "detach": "b", "keep": "b", "no-subreaper": "b"},
    "start": {},
    "state": {},
    "kill": {"all": "b"},
    "delete": {"force": "b"},
    "exec": {
        "console-socket": "s", "cwd": "s", "env": "l", "tty": "b", "user": "s", "additional-gids": "l", "process": "s",
        "detach": "b", "pid-file": "s", "process-label": "s", "apparmor": "s", "no-new-privs": "b", "cap": "l",
        "preserve-fds": "i", "cgroup": "l", "ignore-paused": "b", "pidfd-socket": "s",
    },
    "list": {"format": "s", "quiet": "b"},
    "ps": {"format": "s"},
    "pause": {},
    "resume": {},
    "update": {
        "resources": "s", "blkio-weight": "i", "cpu-period": "i", "cpu-quota": "i", "cpu-burst": "i", "cpu-share": "i",
        "cpu-rt-period": "i", "cpu-rt-runtime": "i", "cpuset-cpus": "s", "cpuset-mems": "s", "memory": "s",
        "memory-swap": "s", "memory-reservation": "s", "kernel-memory": "s", "kernel-memory-tcp": "s",
        "pids-limit": "i", "cpu-idle": "i",
    },
    "spec": {"bundle": "s", "rootless": "b"},
    "features": {},
    "events": {"interval": "s", "stats": "b"},
    "checkpoint": _CHECKPOINT,
    "restore": {**_CREATE, **_CHECKPOINT, "detach": "b", "no-subreaper": "b"},
}  # fmt: skip
LETTERS = {
    "b": "bundle", "d": "detach", "e": "env", "t": "tty", "u": "user", "p": "process", "g": "additional-gids",
    "c": "cap", "a": "all", "f": "force", "q": "quiet", "r": "resources", "h": "help", "v": "version",
}  # fmt: skip
_LETTER_OF = {"list": {"f": "format"}, "ps": {"f": "format"}}

Values = dict[str, "str | int | bool | list[str]"]


class Flags:
    """Parsed flags with typed getters."""

    __slots__ = ("values",)

    def __init__(self, values: Values) -> None:
        self.values = values

    def text(self, name: str, default: str = "") -> str:
        value = self.values.get(name, default)
        return value if isinstance(value, str) else default

    def number(self, name: str) -> int | None:
        value = self.values.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def on(self, name: str) -> bool:
        return self.values.get(name) is True

    def items(self, name: str) -> list[str]:
        value = self.values.get(name, [])
        return value if isinstance(value, list) else []


def parse(args: list[str], table: dict[str, str], command: str = "") -> tuple[Flags, list[str]]:
    """Flags up to the first word that is none (or `--`), and the rest. Raises InvalidArgument naming the flag."""
    values: Values = {}
    letters = {**LETTERS, **_LETTER_OF.get(command, {})}
    position = 0
    while position < len(args):
        word = args[position]
        if word == "--":
            position += 1
            break
        if not word.startswith("-") or word == "-":
            break
        position += 1
        name, equals, given = word.lstrip("-").partition("=")
        if len(name) == 1:
            name = letters.get(name, name)
        kind = table.get(name)
        if kind is None and name == "help":
            kind = "b"
        if kind is None:
            raise InvalidArgument(f"read arguments: unknown flag `{word}`", hint=f"wharfie-oci {command} --help")
        if kind == "b":
            values[name] = given.lower() not in {"false", "0"} if equals else True
            continue
        if not equals:
            if position == len(args):
                raise InvalidArgument(f"read arguments: flag `{word}` needs a value")
            given = args[position]
            position += 1
        if kind == "i":
            try:
                values[name] = int(given)
            except ValueError:
                raise InvalidArgument(f"read arguments: `{word} {given}`: not a number") from None
        elif kind == "l":
            old = values.setdefault(name, [])
            assert isinstance(old, list)
            old.append(given)
        else:
            values[name] = given
    return Flags(values), args[position:]


def size_bytes(text: str) -> int:
    """`64m`, `1g`, `-1`, plain bytes. Raises InvalidArgument."""
    units = {"k": 10, "m": 20, "g": 30, "t": 40}
    bare = text.strip().lower().removesuffix("b").removesuffix("i")
    shift = units.get(bare[-1:], 0)
    try:
        return int(bare[:-1] if shift else bare) << shift
    except ValueError:
        raise InvalidArgument(f"read size `{text}`: not a number with k, m, g or t") from None
