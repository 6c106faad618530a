# SPDX-License-Identifier: Apache-2.0
"""Dockerfile instructions that change an image's config: `--change` of commit and import.

Takes CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR, in the grammar of the Dockerfile
reference: JSON or shell form, quotes, backslash, `$NAME`, `${NAME}`, `${NAME:-word}`, `${NAME:+word}`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable

import msgspec

from wharfie.errdefs import InvalidArgument
from wharfie.spec.image import ContainerConfig, Healthcheck

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::([-+])(.*))?\Z", re.DOTALL)
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?\Z")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNIT_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def apply_changes(config: ContainerConfig, changes: Iterable[str]) -> ContainerConfig:
    """A copy of `config` with each instruction applied in order. Raises InvalidArgument naming the instruction."""
    new = msgspec.convert(msgspec.to_builtins(config), ContainerConfig)
    text = "\n".join(changes).replace("\\\n", " ")
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        word, _, rest = stripped.partition(" ")
        handler = _HANDLERS.get(word.upper())
        if handler is None:
            raise InvalidArgument(
                f"apply change {stripped!r}: {word!r} is not an instruction that changes an image's config",
                hint=f"one of {', '.join(sorted(_HANDLERS))}",
            )
        rest = rest.strip()
        if not rest:
            raise InvalidArgument(f"apply change {stripped!r}: {word.upper()} needs an argument")
        handler(new, rest)
    return new


def _environment(config: ContainerConfig) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in config.env or [])


def _expand_dollar(text: str, i: int, env: dict[str, str]) -> tuple[str, int]:
    """Value of the variable at text[i] == "$", and the index behind it."""
    if text.startswith("${", i):
        end, depth = i + 2, 1
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        found = None if depth else _BRACED.match(text[i + 2 : end - 1])
        if found is None:
            raise InvalidArgument(
                f"expand {text!r}: malformed ${{…}}", hint="write ${NAME}, ${NAME:-word}, ${NAME:+word}"
            )
        name, sign, word = found.groups()
        value = env.get(name, "")
        if sign == "-" and not value:
            value = _words(word, env, split=False)[0]
        elif sign == "+":
            value = _words(word, env, split=False)[0] if value else ""
        return value, end
    name_match = _NAME.match(text, i + 1)
    if name_match is None:
        return "$", i + 1
    return env.get(name_match.group(), ""), name_match.end()


def _words(text: str, env: dict[str, str], *, split: bool = True) -> list[str]:
    """Split at blanks outside quotes, take quotes away, expand variables. With `split` off, one word comes back."""
    words: list[str] = []
    current: list[str] = []
    started, quote, i = not split, "", 0
    while i < len(text):
        c = text[i]
        if quote != "'" and c == "\\" and i + 1 < len(text):
            if quote and text[i + 1] not in '"\\$':
                current.append("\\")
            current.append(text[i + 1])
            started, i = True, i + 2
            continue
        if quote != "'" and c == "$":
            value, i = _expand_dollar(text, i, env)
            current.append(value)
            started = True
            continue
        if c == quote:
            quote = ""
        elif not quote and c in "'\"":
            quote, started = c, True
        elif split and not quote and c in " \t":
            if started:
                words.append("".join(current))
            current, started = [], False
        else:
            current.append(c)
            started = True
        i += 1
    if quote:
        raise InvalidArgument(f"read {text!r}: a {quote} is not closed")
    if started:
        words.append("".join(current))
    return words


def _json_list(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        return msgspec.json.decode(text, type=list[str])
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def _command(config: ContainerConfig, text: str) -> list[str]:
    listed = _json_list(text)
    return listed if listed is not None else [*(config.shell or ["/bin/sh", "-c"]), text]


def _pairs(config: ContainerConfig, text: str) -> list[tuple[str, str]]:
    env = _environment(config)
    first, _, rest = text.partition(" ")
    if "=" not in first:
        if not rest.strip():
            raise InvalidArgument(f"read {text!r}: a name needs a value", hint="write NAME=value")
        return [(_words(first, env, split=False)[0], _words(rest.strip(), env, split=False)[0])]
    pairs = []
    for word in _words(text, env):
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"read {text!r}: {word!r} is not NAME=value", hint="quote values that have blanks")
        pairs.append((name, value))
    return pairs


def _cmd(config: ContainerConfig, text: str) -> None:
    config.cmd = _command(config, text)


def _entrypoint(config: ContainerConfig, text: str) -> None:
    config.entrypoint = _command(config, text)


def _env(config: ContainerConfig, text: str) -> None:
    for name, value in _pairs(config, text):
        entries = config.env or []
        at = next((i for i, e in enumerate(entries) if e.partition("=")[0] == name), None)
        if at is None:
            entries.append(f"{name}={value}")
        else:
            entries[at] = f"{name}={value}"
        config.env = entries


def _label(config: ContainerConfig, text: str) -> None:
    config.labels = {**(config.labels or {}), **dict(_pairs(config, text))}


def _expose(config: ContainerConfig, text: str) -> None:
    ports = dict(config.exposed_ports or {})
    for word in _words(text, _environment(config)):
        found = _PORT.match(word)
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if found is None or not 1 <= low <= high <= 65535:
            raise InvalidArgument(f"expose {word!r}: not a port", hint="write 80, 80/udp or 8000-8010")
        for port in range(low, high + 1):
            ports[f"{port}/{found[3] or 'tcp'}"] = {}
    config.exposed_ports = ports


def _volume(config: ContainerConfig, text: str) -> None:
    paths = _json_list(text)
    if paths is None:
        paths = _words(text, _environment(config))
    if not all(p.strip() for p in paths):
        raise InvalidArgument(f"volume {text!r}: a path is empty")
    config.volumes = {**(config.volumes or {}), **{p.strip(): {} for p in paths}}


def _user(config: ContainerConfig, text: str) -> None:
    config.user = _words(text, _environment(config), split=False)[0]


def _workdir(config: ContainerConfig, text: str) -> None:
    path = _words(text, _environment(config), split=False)[0]
    config.working_dir = posixpath.normpath(posixpath.join("/", config.working_dir, path))


def _stop_signal(config: ContainerConfig, text: str) -> None:
    config.stop_signal = _words(text, _environment(config), split=False)[0]


def _on_build(config: ContainerConfig, text: str) -> None:
    if text.partition(" ")[0].upper() in {"ONBUILD", "FROM", "MAINTAINER"}:
        raise InvalidArgument(f"onbuild {text!r}: {text.partition(' ')[0]} may not be a trigger")
    config.on_build = [*(config.on_build or []), text]


def _duration_ns(flag: str, text: str) -> int:
    total, at = 0.0, 0
    for found in _DURATION.finditer(text):
        if found.start() != at:
            break
        total, at = total + float(found[1]) * _UNIT_NS[found[2]], found.end()
    if at != len(text) or not text:
        raise InvalidArgument(f"healthcheck --{flag}={text!r}: not a duration", hint="write 30s, 1m30s or 500ms")
    if 0 < total < 10**6:
        raise InvalidArgument(f"healthcheck --{flag}={text!r}: shorter than 1ms")
    return int(total)


def _healthcheck(config: ContainerConfig, text: str) -> None:
    check = Healthcheck()
    while text.startswith("--"):
        flag, _, text = text[2:].partition(" ")
        name, _, value = flag.partition("=")
        text = text.strip()
        if name == "retries" and value.isdigit():
            check.retries = int(value)
        elif name in {"interval", "timeout", "start-period", "start-interval"}:
            setattr(check, name.replace("-", "_"), _duration_ns(name, value))
        else:
            raise InvalidArgument(
                f"healthcheck --{flag}: unknown option or value",
                hint="--interval --timeout --start-period --start-interval take a duration, --retries a number",
            )
    kind, _, command = text.partition(" ")
    command = command.strip()
    if kind.upper() == "NONE" and not command:
        check = Healthcheck(test=["NONE"])
    elif kind.upper() == "CMD" and command:
        listed = _json_list(command)
        check.test = ["CMD", *listed] if listed is not None else ["CMD-SHELL", command]
    else:
        raise InvalidArgument(f"healthcheck {text!r}: neither CMD <command> nor NONE")
    config.healthcheck = check


_HANDLERS: dict[str, Callable[[ContainerConfig, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
