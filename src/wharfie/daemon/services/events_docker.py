# SPDX-License-Identifier: Apache-2.0
"""Docker's view of the events: containerd envelopes -> `{"Type", "Action", "Actor", "scope", "time", "timeNano"}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wharfie.errdefs import InvalidArgument
from wharfie.events import Envelope

_ACTIONS = {
    "/containers/create": ("container", "create"),
    "/containers/update": ("container", "update"),
    "/containers/delete": ("container", "destroy"),
    "/tasks/start": ("container", "start"),
    "/tasks/oom": ("container", "oom"),
    "/tasks/paused": ("container", "pause"),
    "/tasks/resumed": ("container", "unpause"),
    "/images/delete": ("image", "delete"),
}
"""Topics whose action is always the same. `/wharfie/<type>/<action>` speaks for itself."""

FILTERS = (
    "config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret",
    "service", "type", "volume",
)  # fmt: skip


def view(envelope: Envelope) -> dict[str, Any] | None:
    """The event as Docker's clients know it, None for what Docker has no event for."""
    attributes = dict(envelope.attributes)
    topic = envelope.topic
    if topic.startswith("/wharfie/"):
        parts = topic.split("/")
        if len(parts) != 4:
            return None
        kind, action = parts[2], parts[3]
        if (kind, action) == ("container", "health"):
            action = f"health_status: {envelope.payload.get('status', '')}"
    elif topic == "/tasks/exit":
        kind, action = "container", "exec_die" if envelope.payload.get("exec_id") else "die"
    elif topic in {"/tasks/exec-added", "/tasks/exec-started"}:
        verb = "exec_create" if topic.endswith("added") else "exec_start"
        kind, action = "container", f"{verb}: {attributes.pop('command', '')}"
    elif topic in _ACTIONS:
        kind, action = _ACTIONS[topic]
    else:
        return None
    seconds = envelope.timestamp_ns // 10**9
    event: dict[str, Any] = {
        "Type": kind,
        "Action": action,
        "Actor": {"ID": envelope.subject, "Attributes": attributes},
        "scope": "local",
        "time": seconds,
        "timeNano": envelope.timestamp_ns,
    }
    if kind in {"container", "image"}:
        event |= {"status": action, "id": envelope.subject}
        if kind == "container":
            event["from"] = attributes.get("image", "")
    return event


def matches(event: dict[str, Any], filters: Mapping[str, list[str]]) -> bool:
    """Whether an event passes `--filter`s: one value of each key must fit."""
    return all(_fits(event, key, values) for key, values in filters.items())


def _fits(event: dict[str, Any], key: str, values: list[str]) -> bool:
    attributes: dict[str, str] = event["Actor"]["Attributes"]
    if key == "type":
        return event["Type"] in values
    if key == "event":
        action = event["Action"]
        return any(action == v or action.startswith((f"{v}:", f"{v} ")) for v in values)
    if key == "scope":
        return event["scope"] in values
    if key == "label":
        return all(_has_label(attributes, v) for v in values)
    if key == "image":
        image = event["Actor"]["ID"] if event["Type"] == "image" else attributes.get("image", "")
        name = attributes.get("name", "") if event["Type"] == "image" else ""
        return any(v in {image, name, image.rpartition(":")[0], name.rpartition(":")[0]} for v in values)
    if key in {"container", "volume", "network", "daemon"}:
        if event["Type"] != key:
            return key == "container" and attributes.get("container", "") in values
        subject, name = event["Actor"]["ID"], attributes.get("name", "")
        return any(v == name or (v and subject.startswith(v)) for v in values)
    return False


def _has_label(attributes: dict[str, str], wanted: str) -> bool:
    name, eq, value = wanted.partition("=")
    return name in attributes and (not eq or attributes[name] == value)


def parse_time(text: str, now_s: float) -> float | None:
    """A `since`/`until` value: UNIX seconds with a fraction, RFC 3339, or a Go duration before now. Raises InvalidArgument."""
    import datetime as dt
    import re

    if not text:
        return None
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
    if parts and "".join(n + u for n, u in parts) == text:
        unit = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
        return now_s - sum(float(n) * unit[u] for n, u in parts)
    shortened = re.sub(r"(\.\d{6})\d+", r"\1", text)
    try:
        found = dt.datetime.fromisoformat(shortened)
    except ValueError:
        raise InvalidArgument(
            f"read time {text!r}: it is neither UNIX seconds, RFC 3339 nor a duration",
            hint="as in 10m or 2026-01-02T15:04:05Z",
        ) from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=dt.UTC)
    return found.timestamp()
