# SPDX-License-Identifier: Apache-2.0
"""Networks, as far as containers have them yet: bridge, host and none, which always exist.

`bridge` is the default one; `default` and `nat` are other words for it (decisions 13). Until networking lands it means a
network namespace of its own with loopback alone, which create says in its warnings.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from wharfie.daemon.state import Engine
from wharfie.errdefs import InvalidArgument, NotFound, PermissionDenied, Unsupported

TABLES: tuple[str, tuple[str, ...]] = ("networks", ())
ALIASES = {"nat": "bridge", "default": "bridge"}


class Network(NamedTuple):
    """`containers`: ids of those that are in it and run."""

    id: str
    name: str
    driver: str
    created_s: float
    containers: tuple[tuple[str, str], ...] = ()


class Networks:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _members(self, ns: str, name: str) -> tuple[tuple[str, str], ...]:
        return tuple(
            (c.id, c.name)
            for c in self._engine.containers.all(ns)
            if c.state.alive and ALIASES.get(c.summary.network or "default", c.summary.network) == name
        )

    def all(self, ns: str) -> list[Network]:
        return [
            Network(
                hashlib.sha256(f"{self._engine.system.id} {name}".encode()).hexdigest(),
                name,
                driver,
                self._engine.started_s,
                self._members(ns, name),
            )
            for name, driver in (("bridge", "bridge"), ("host", "host"), ("none", "null"))
        ]

    def find(self, ns: str, text: str) -> Network:
        """By name, alias, id or id prefix. Raises NotFound, InvalidArgument (prefix of several)."""
        everything = self.all(ns)
        name = ALIASES.get(text, text)
        found = [n for n in everything if name in {n.name, n.id}] or [
            n for n in everything if text and n.id.startswith(text)
        ]
        if len(found) > 1:
            raise InvalidArgument(f"network {text} is ambiguous ({len(found)} matches found on its id)")
        if not found:
            raise NotFound(f"network {text} not found", hint="there are bridge, host and none")
        return found[0]

    def create(self, name: str) -> Network:
        raise Unsupported(
            f"create network {name!r}: networks of one's own are not there yet",
            hint="containers can use bridge (loopback only for now), host, none and container:NAME",
        )

    def connect(self, ns: str, network: str, container: str) -> None:
        self.find(ns, network)
        raise Unsupported(
            f"connect container {container!r} to network {network!r}: not possible after create yet",
            hint="create the container with --network",
        )

    def remove(self, ns: str, text: str) -> None:
        network = self.find(ns, text)
        raise PermissionDenied(f"{network.name} is a pre-defined network and cannot be removed")
