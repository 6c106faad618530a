# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from wharfie.daemon.services.events_docker import matches, parse_time, view
from wharfie.errdefs import InvalidArgument
from wharfie.events import Envelope

ATTRIBUTES = {"image": "busybox:1", "name": "box", "a": "b"}


def envelope(topic: str, **payload: object) -> Envelope:
    return Envelope(1_700_000_000_123_456_789, "default", topic, payload, "f" * 64, dict(ATTRIBUTES))


@pytest.mark.parametrize(
    ("topic", "payload", "action"),
    [
        ("/containers/create", {}, "create"),
        ("/tasks/start", {}, "start"),
        ("/tasks/exit", {"exit_status": 1}, "die"),
        ("/tasks/exit", {"exec_id": "e"}, "exec_die"),
        ("/tasks/oom", {}, "oom"),
        ("/tasks/paused", {}, "pause"),
        ("/containers/delete", {}, "destroy"),
        ("/wharfie/container/kill", {}, "kill"),
        ("/wharfie/container/health", {"status": "healthy"}, "health_status: healthy"),
    ],
)
def test_actions(topic: str, payload: dict[str, object], action: str) -> None:
    event = view(envelope(topic, **payload))
    assert event is not None
    assert event["Action"] == event["status"] == action
    assert (event["Type"], event["Actor"]["ID"], event["id"], event["from"]) == (
        "container",
        "f" * 64,
        "f" * 64,
        "busybox:1",
    )
    assert (event["time"], event["timeNano"]) == (1_700_000_000, 1_700_000_000_123_456_789)


def test_what_docker_has_no_word_for() -> None:
    assert view(envelope("/snapshot/prepare")) is None


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ({"type": ["container"]}, True),
        ({"type": ["image", "container"]}, True),
        ({"type": ["volume"]}, False),
        ({"event": ["die"]}, True),
        ({"event": ["start"]}, False),
        ({"container": ["box"]}, True),
        ({"container": ["ffff"]}, True),
        ({"container": ["other"]}, False),
        ({"image": ["busybox"]}, True),
        ({"image": ["busybox:2"]}, False),
        ({"label": ["a"]}, True),
        ({"label": ["a=b"]}, True),
        ({"label": ["a=c"]}, False),
        ({"label": ["a", "z"]}, False),
        ({"type": ["container"], "event": ["start"]}, False),
        ({"volume": ["box"]}, False),
    ],
)
def test_filters(filters: dict[str, list[str]], passes: bool) -> None:
    event = view(envelope("/tasks/exit"))
    assert event is not None
    assert matches(event, filters) is passes


def test_exec_actions_match_by_their_verb() -> None:
    attributes = {"command": "ls -l", "execID": "e", **ATTRIBUTES}
    event = view(Envelope(1, "default", "/tasks/exec-added", {}, "f" * 64, attributes))
    assert event is not None
    assert event["Action"] == "exec_create: ls -l"
    assert "command" not in event["Actor"]["Attributes"]
    assert matches(event, {"event": ["exec_create"]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("1700000000.5", 1700000000.5),
        ("1h30m", 10_000 - 5400),
        ("500ms", 9999.5),
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T01:01:00.123456789+01:00", 60.123456),
    ],
)
def test_times(text: str, expected: float | None) -> None:
    assert parse_time(text, 10_000.0) == expected


def test_a_bad_time() -> None:
    with pytest.raises(InvalidArgument, match="yesterday"):
        parse_time("yesterday", 0)
