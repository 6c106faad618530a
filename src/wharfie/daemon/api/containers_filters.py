# SPDX-License-Identifier: Apache-2.0
"""Filters of `ps` and `container prune`: which containers a request means."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from wharfie.daemon.services import containers_records as records
from wharfie.daemon.services.events_docker import parse_time
from wharfie.errdefs import InvalidArgument, NotFound
from wharfie.oci.namespaces import joined

if TYPE_CHECKING:
    from wharfie.daemon.services.container import Container
    from wharfie.daemon.services.containers import Containers

LIST_FILTERS = (
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network",
    "publish", "since", "status", "volume",
)  # fmt: skip
PRUNE_FILTERS = ("label", "label!", "until")
_STATUS = frozenset({"created", "restarting", "running", "removing", "paused", "exited", "dead"})
_HEALTH = frozenset({"starting", "healthy", "unhealthy", "none"})

Test = Callable[["Container"], bool]


def has_labels(labels: dict[str, str], wanted: list[str]) -> bool:
    """All of `key` or `key=value`."""
    for text in wanted:
        key, eq, value = text.partition("=")
        if key not in labels or (eq and labels[key] != value):
            return False
    return True


def _name_test(patterns: list[str]) -> Test:
    try:
        compiled = [re.compile(p) for p in patterns]
    except re.error as e:
        raise InvalidArgument(f"read filter name={patterns[0]!r}: {e}") from e
    return lambda c: any(p.search(c.name) or p.search(f"/{c.name}") for p in compiled)


def _choice(key: str, values: list[str], known: frozenset[str]) -> frozenset[str]:
    for value in values:
        if value not in known:
            raise InvalidArgument(f"invalid filter '{key}={value}'", hint=f"one of {', '.join(sorted(known))}")
    return frozenset(values)


def _health_of(container: Container) -> str:
    return container.health.status if container.health is not None else "none"


def _ancestor_test(cs: Containers, ns: str, values: list[str]) -> Test:
    ids: set[str] = set()
    names: set[str] = set()
    for value in values:
        names.add(value)
        try:
            found = cs.engine.images.find(ns, value)
        except (NotFound, InvalidArgument):
            continue
        ids.add(found.record.target.digest)
    return lambda c: c.summary.image_id in ids or c.summary.image in names


def list_tests(cs: Containers, ns: str, filters: dict[str, list[str]]) -> list[Test]:
    """One test per filter; a container has to pass all. Raises InvalidArgument, NotFound (before, since)."""
    tests: list[Test] = []
    for key, values in filters.items():
        if not values:
            continue
        if key == "id":
            tests.append(lambda c, v=values: any(c.id.startswith(x) for x in v))  # type: ignore[misc]
        elif key == "name":
            tests.append(_name_test(values))
        elif key == "label":
            tests.append(lambda c, v=values: has_labels(c.summary.labels, v))  # type: ignore[misc]
        elif key == "status":
            chosen = _choice(key, values, _STATUS)
            tests.append(lambda c, s=chosen: ("removing" if c.gone else c.state.status) in s)  # type: ignore[misc]
        elif key == "health":
            chosen = _choice(key, values, _HEALTH)
            tests.append(lambda c, s=chosen: _health_of(c) in s)  # type: ignore[misc]
        elif key == "exited":
            if not all(v.lstrip("-").isdigit() for v in values):
                raise InvalidArgument(f"invalid filter 'exited={values[0]}'", hint="give an exit code")
            codes = {int(v) for v in values}
            tests.append(
                lambda c, s=codes: c.state.status in {records.EXITED, records.DEAD} and c.state.exit_code in s  # type: ignore[misc]
            )
        elif key == "ancestor":
            tests.append(_ancestor_test(cs, ns, values))
        elif key in {"before", "since"}:
            stamps = [cs.find(ns, v).created_ns for v in values]
            tests.append(_time_test(key, stamps))
        elif key == "volume":
            tests.append(
                lambda c, v=values: any(
                    x in {name, target, source} for _, name, source, target, _ in c.summary.mounts for x in v
                )  # type: ignore[misc]
            )
        elif key == "network":
            tests.append(lambda c, v=values: _network_of(c) in {_canonical(x) for x in v})  # type: ignore[misc]
        elif key == "expose":
            tests.append(lambda c, v=values: any(_exposes(c, x) for x in v))  # type: ignore[misc]
        elif key == "publish":
            tests.append(lambda _: False)  # nothing can be published yet: `create` refuses it
        elif key == "is-task":
            tests.append(lambda _, v=values: all(x in {"false", "0"} for x in v))  # type: ignore[misc]
        elif key == "isolation":
            tests.append(lambda _, v=values: any(x in {"default", "process", ""} for x in v))  # type: ignore[misc]
    return tests


def _time_test(key: str, stamps: list[int]) -> Test:
    if key == "before":
        return lambda c: c.created_ns < min(stamps)
    return lambda c: c.created_ns > max(stamps)


def _canonical(network: str) -> str:
    return "bridge" if network in {"default", "nat"} else network


def _network_of(container: Container) -> str:
    mode = container.summary.network
    return "" if joined(mode) else mode


def _exposes(container: Container, text: str) -> bool:
    number, _, protocol = text.partition("/")
    return any(
        p.partition("/")[0] == number and (not protocol or p.endswith(protocol)) for p in container.summary.ports
    )


def prune_test(filters: dict[str, list[str]]) -> Test:
    """Raises InvalidArgument."""
    label, without, until = filters.get("label", []), filters.get("label!", []), filters.get("until", [])
    if len(until) > 1:
        raise InvalidArgument("read filter 'until': more than one was given")
    bound = parse_time(until[0], time.time()) if until else None

    def test(container: Container) -> bool:
        labels = container.summary.labels
        if not has_labels(labels, label) or any(has_labels(labels, [w]) for w in without):
            return False
        return bound is None or container.created_ns / 1e9 < bound

    return test
