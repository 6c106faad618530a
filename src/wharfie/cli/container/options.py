# SPDX-License-Identifier: Apache-2.0
"""The flags of `create` and `run` that take more than a copy: environment, labels, devices, logging, security, health."""

from __future__ import annotations

import os

from wharfie.cli.values import pairs
from wharfie.errdefs import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Options


def environment(options: Options) -> list[str]:
    """Files first, flags after them; NAME alone takes this shell's value."""
    result: list[str] = []
    if "env-file" in options.given:
        for path in options.items("env-file"):
            result += filter(None, (_from_here(line, keep=False) for line in _lines(path, "--env-file")))
    if "env" in options.given:
        for item in options.items("env"):
            if not item or item[0] == "=":
                raise InvalidArgument(f"-e `{item}`: want NAME=VALUE or NAME")
            result.append(_from_here(item, keep=True))
    return result


def _from_here(item: str, *, keep: bool) -> str:
    if "=" in item:
        return item
    value = os.environ.get(item)
    return f"{item}={value}" if value is not None else item if keep else ""


def _lines(path: str, flag: str) -> list[str]:
    """Lines of a file of NAME=VALUE, without comments and empty ones."""
    try:
        with open(path, encoding="utf-8-sig") as f:
            lines = f.read().split("\n")
    except OSError as e:
        raise InvalidArgument(f"{flag} `{path}`: {(e.strerror or str(e)).lower()}") from e
    except UnicodeDecodeError as e:
        raise InvalidArgument(f"{flag} `{path}`: not UTF-8 at byte {e.start}") from e
    result = []
    for number, raw in enumerate(lines, 1):
        line = raw.lstrip().removesuffix("\r")
        if not line or line.startswith("#"):
            continue
        name = line.partition("=")[0]
        if not name or name != name.strip() or len(name.split()) > 1:
            raise InvalidArgument(f"{flag} `{path}`, line {number}: variable `{name}` contains whitespaces or is empty")
        result.append(line)
    return result


def labels(options: Options) -> dict[str, str]:
    items = []
    if "label-file" in options.given:
        for path in options.items("label-file"):
            items += _lines(path, "--label-file")
    if "label" in options.given:
        items += options.items("label")
    return pairs(items, "label", bare=True)


def devices(options: Options, host: dict[str, Any]) -> None:
    plain, cdi = [], []
    for text in options.items("device"):
        if not text.startswith("/") and "=" in text and "/" in text.partition("=")[0]:
            cdi.append(text)
            continue
        parts = text.split(":")
        if len(parts) > 3 or not parts[0] or not parts[-1]:
            raise InvalidArgument(f"--device `{text}`: want PATH[:PATH[:rwm]]")
        source, target, rights = parts[0], "", "rwm"
        if len(parts) == 3:
            target, rights = parts[1], parts[2]
        elif len(parts) == 2:
            if _are_rights(parts[1]):
                rights = parts[1]
            else:
                target = parts[1]
        if not _are_rights(rights):
            raise InvalidArgument(f"--device `{text}`: `{rights}` is not a set of r, w and m")
        if target and not target.startswith("/"):
            raise InvalidArgument(f"--device `{text}`: `{target}` is not an absolute path")
        plain.append({"PathOnHost": source, "PathInContainer": target or source, "CgroupPermissions": rights})
    if plain:
        host["Devices"] = plain
    if cdi:
        host["DeviceRequests"] = [{"Driver": "cdi", "DeviceIDs": cdi}]


def _are_rights(text: str) -> bool:
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)


def log_config(options: Options) -> dict[str, Any]:
    config = pairs(options.items("log-opt"), "--log-opt") if "log-opt" in options.given else {}
    driver = options.text("log-driver")
    if driver == "none" and config:
        raise InvalidArgument("--log-opt: the log driver `none` takes no options")
    return {"Type": driver, "Config": config}


def security(options: Options, host: dict[str, Any]) -> None:
    result = []
    for item in options.items("security-opt"):
        if item == "systempaths=unconfined":
            host["MaskedPaths"] = host["ReadonlyPaths"] = []
            continue
        key, sep, value = item.partition("=" if "=" in item else ":")
        if not sep and key not in ("no-new-privileges", "writable-cgroups"):
            raise InvalidArgument(f"--security-opt `{item}`: want KEY=VALUE")
        if key == "seccomp" and value not in ("unconfined", "builtin"):
            try:
                with open(value, encoding="utf-8") as f:
                    profile = f.read()
            except OSError as e:
                raise InvalidArgument(
                    f"--security-opt: seccomp profile `{value}`: {(e.strerror or str(e)).lower()}"
                ) from e
            from wharfie.client.jsontext import dumps, loads

            try:
                item = f"seccomp={dumps(loads(profile))}"
            except ValueError as e:
                raise InvalidArgument(f"--security-opt: seccomp profile `{value}`: {e}") from e
        result.append(item)
    if result:
        host["SecurityOpt"] = result


_TIMES = (("health-interval", "Interval"), ("health-timeout", "Timeout"), ("health-start-period", "StartPeriod"),
          ("health-start-interval", "StartInterval"), ("health-retries", "Retries"))  # fmt: skip


def health(options: Options) -> dict[str, Any] | None:
    given = options.given
    result: dict[str, Any] = {}
    if "health-cmd" in given:
        result["Test"] = ["CMD-SHELL", options.text("health-cmd")]
    for flag, key in _TIMES:
        if flag in given:
            value = options.values[flag]
            if value < 0:
                raise InvalidArgument(f"--{flag}: must not be negative")
            result[key] = value
    if "no-healthcheck" in given and options.on("no-healthcheck"):
        if result:
            raise InvalidArgument("--no-healthcheck excludes the other --health-* flags")
        return {"Test": ["NONE"]}
    return result or None
