# SPDX-License-Identifier: Apache-2.0
"""The one wiring table: which services fill which slots of the engine, and which modules answer which routes.

Text, not imports: a daemon that is told to leave something out never loads it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

SERVICES: tuple[tuple[str, str], ...] = (
    ("images", "wharfie.daemon.services.images:Images"),
    ("volumes", "wharfie.daemon.services.volumes:Volumes"),
    ("networks", "wharfie.daemon.services.networks:Networks"),
    ("containers", "wharfie.daemon.services.containers:Containers"),
    ("execs", "wharfie.daemon.services.exec:Execs"),
    ("system", "wharfie.daemon.services.system:System"),
    ("collector", "wharfie.daemon.services.gc:Collector"),
)
"""Slot of `state.Engine` -> class, in order of opening. Closed in reverse order."""

TABLES: tuple[str, ...] = (
    "wharfie.daemon.services.volumes_records",
    "wharfie.daemon.services.networks",
)
"""Modules with `TABLES: tuple[str, Sequence[str]]` = (component, migrations), registered before the database opens."""

ROUTES: tuple[str, ...] = (
    "wharfie.daemon.api.containers",
    "wharfie.daemon.api.exec",
    "wharfie.daemon.api.events",
    "wharfie.daemon.api.images",
    "wharfie.daemon.api.volumes",
    "wharfie.daemon.api.networks",
    "wharfie.daemon.api.system",
    "wharfie.daemon.api.archive",
    "wharfie.daemon.api.distribution",
    "wharfie.daemon.api.auth",
)
"""Modules with `ROUTES: Sequence[router.Route]`."""


def load(target: str) -> Any:
    """`module:name` -> the object."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)
