# SPDX-License-Identifier: Apache-2.0
"""`-v`, `--mount` and `--tmpfs`: from flag text to HostConfig.Binds, Mounts, Tmpfs and Config.Volumes."""

from __future__ import annotations

import os

from wharfie.errdefs import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Options

_TYPES = ("bind", "volume", "tmpfs", "image", "npipe", "cluster")
_PROPAGATION = ("private", "rprivate", "shared", "rshared", "slave", "rslave")


def fill(options: Options, config: dict[str, Any], host: dict[str, Any]) -> None:
    binds: list[str] = []
    anonymous: dict[str, Any] = {}
    for text in options.items("volume"):
        source, target = volume(text)
        if source:
            binds.append(target)
        else:
            anonymous[target] = {}
    if binds:
        host["Binds"] = binds
    if anonymous:
        config["Volumes"] = anonymous
    if mounts := options.items("mount"):
        host["Mounts"] = mounts
    if tmpfs := options.items("tmpfs"):
        host["Tmpfs"] = dict(_tmpfs(t) for t in tmpfs)


def _tmpfs(text: str) -> tuple[str, str]:
    path, _, mount_options = text.partition(":")
    if not path.startswith("/"):
        raise InvalidArgument(f"--tmpfs `{text}`: the path must be absolute")
    return path, mount_options


def volume(text: str) -> tuple[bool, str]:
    """(has a source, the form the engine reads): a relative source is made absolute, as the shell's user means it."""
    windows = len(text) > 2 and text[0].isalpha() and text[1] == ":" and text[2] in "\\/"
    parts = text.split(":")
    if windows:
        parts[:2] = [f"{parts[0]}:{parts[1]}"]
    if len(parts) > 3 and not windows:
        raise InvalidArgument(f"-v `{text}`: want [SOURCE:]TARGET[:OPTIONS]")
    if not all(parts[:2]):
        raise InvalidArgument(f"-v `{text}`: empty section between colons")
    if len(parts) == 1:
        return False, text
    source = parts[0]
    if source in (".", "..") or source.startswith(("./", "../")):
        parts[0] = os.path.abspath(source)
    return True, ":".join(parts)


def fields_of(text: str) -> list[str]:
    """A line of comma separated values; a field in double quotes may hold commas, and "" is a quote inside it."""
    if '"' not in text:
        return text.split(",")
    fields, at = [], 0
    while True:
        if text[at : at + 1] == '"':
            at += 1
            part = ""
            while True:
                end = text.find('"', at)
                if end < 0:
                    raise ValueError("a quote is not closed")
                part += text[at:end]
                at = end + 1
                if text[at : at + 1] != '"':
                    break
                part += '"'
                at += 1
            if at < len(text) and text[at] != ",":
                raise ValueError("text after a closed quote")
            fields.append(part)
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            fields.append(text[at:end])
            at = end
        if at >= len(text):
            return fields
        at += 1


def mount(text: str) -> dict[str, Any]:
    """One `--mount` as the engine's Mount. Raises: ValueError."""
    result: dict[str, Any] = {"Type": "volume"}
    parts: dict[str, dict[str, Any]] = {"bind": {}, "volume": {}, "tmpfs": {}, "image": {}}
    for field in fields_of(text):
        key, has_value, value = field.partition("=")
        key = key.lower()
        if key in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src"):
            flag = _flag(key, value) if has_value else True
            if key in ("readonly", "ro"):
                result["ReadOnly"] = flag
            elif key == "volume-nocopy":
                parts["volume"]["NoCopy"] = flag
            elif key == "bind-create-src":
                parts["bind"]["CreateMountpoint"] = flag
            else:
                parts["bind"]["NonRecursive"] = flag
            continue
        if not has_value:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        _key(key, value, result, parts)
    return _checked(result, parts)


def _key(key: str, value: str, result: dict[str, Any], parts: dict[str, dict[str, Any]]) -> None:
    if key == "type":
        result["Type"] = value.lower()
    elif key in ("source", "src"):
        relative = value in (".", "..") or value.startswith(("./", "../"))
        result["Source"] = os.path.abspath(value) if relative else value
    elif key in ("target", "dst", "destination"):
        result["Target"] = value
    elif key == "consistency":
        result["Consistency"] = value.lower()
    elif key == "bind-propagation":
        if value.lower() not in _PROPAGATION:
            raise ValueError(f"invalid propagation '{value}' (want {', '.join(_PROPAGATION)})")
        parts["bind"]["Propagation"] = value.lower()
    elif key == "bind-recursive":
        _recursive(value, parts["bind"])
    elif key in ("volume-subpath", "image-subpath"):
        parts[key.partition("-")[0]]["Subpath"] = value
    elif key == "volume-label":
        name, _, label = value.partition("=")
        parts["volume"].setdefault("Labels", {})[name] = label
    elif key == "volume-driver":
        parts["volume"].setdefault("DriverConfig", {})["Name"] = value
    elif key == "volume-opt":
        name, _, option = value.partition("=")
        parts["volume"].setdefault("DriverConfig", {}).setdefault("Options", {})[name] = option
    elif key == "tmpfs-size":
        from wharfie.cli.values import size

        parts["tmpfs"]["SizeBytes"] = size(value)
    elif key == "tmpfs-mode":
        try:
            parts["tmpfs"]["Mode"] = int(value, 8)
        except ValueError:
            raise ValueError(f"invalid value for tmpfs-mode: {value} (want an octal number)") from None
    else:
        raise ValueError(f"unexpected key '{key}' in '{key}={value}'")


def _recursive(value: str, bind: dict[str, Any]) -> None:
    if value == "disabled":
        bind["NonRecursive"] = True
    elif value == "writable":
        bind["ReadOnlyNonRecursive"] = True
    elif value == "readonly":
        bind["ReadOnlyForceRecursive"] = True
    elif value != "enabled":
        raise ValueError(f"invalid bind-recursive '{value}' (want enabled, disabled, writable or readonly)")


def _checked(result: dict[str, Any], parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    kind = result["Type"]
    if kind not in _TYPES:
        raise ValueError(f"unknown mount type '{kind}' (want {', '.join(_TYPES[:5])})")
    if not result.get("Target"):
        raise ValueError("target is required")
    for part, values in parts.items():
        if values and part != kind:
            raise ValueError(f"cannot mix '{part}-*' options with mount type '{kind}'")
    if kind == "bind":
        if not result.get("Source"):
            raise ValueError("source is required for a bind mount")
        bind = parts["bind"]
        if bind.get("ReadOnlyNonRecursive") and not result.get("ReadOnly"):
            raise ValueError("option 'bind-recursive=writable' requires 'readonly'")
        if bind.get("ReadOnlyForceRecursive"):
            if not result.get("ReadOnly"):
                raise ValueError("option 'bind-recursive=readonly' requires 'readonly'")
            if bind.get("Propagation") != "rprivate":
                raise ValueError("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate'")
    if kind == "tmpfs" and result.get("Source"):
        raise ValueError("a tmpfs has no source")
    if parts.get(kind):
        result[f"{kind.capitalize()}Options"] = parts[kind]
    return result


def _flag(key: str, value: str) -> bool:
    if value in ("1", "true", "True", "t"):
        return True
    if value in ("0", "false", "False", "f"):
        return False
    raise ValueError(f"invalid value for {key}: {value}")
