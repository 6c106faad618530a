# SPDX-License-Identifier: Apache-2.0
"""The one table from runtime name to engine. Anything else is a program with runc's command line."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.runtime import Engine

OURS = "io.wharfie.linux.v1"
ENGINES = {OURS: "wharfie.runtime.linux.engine:LinuxEngine"}
_EXTERNAL = "wharfie.runtime.external:ExternalEngine"


def make_engine(runtime: str, namespace: str, container_id: str, options: dict[str, str]) -> Engine:
    """Raises NotFound for a program that isn't there."""
    target = ENGINES.get(runtime or OURS)
    module, _, name = (target or _EXTERNAL).partition(":")
    factory = getattr(importlib.import_module(module), name)
    engine: Engine = factory() if target else factory(runtime)
    return engine
