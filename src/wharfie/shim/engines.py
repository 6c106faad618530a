# SPDX-License-Identifier: Apache-2.0
"""The one table from runtime name to engine. Anything else is a program with runc's command line."""

from __future__ import annotations

import importlib

from wharfie.errdefs import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.runtime import Engine

OURS = "io.wharfie.linux.v1"
ENGINES = {OURS: "wharfie.runtime.linux.engine:LinuxEngine"}
_EXTERNAL = "wharfie.runtime.external:ExternalEngine"
_BOOLEANS = {"no_pivot": "no_pivot", "no_new_keyring": "no_new_keyring", "systemd_cgroup": "systemd_cgroup"}


def make_engine(runtime: str, options: dict[str, str]) -> Engine:
    """Raises NotFound for a program that isn't there, InvalidArgument for an option that the engine doesn't have."""
    ours = ENGINES.get(runtime or OURS)
    module, _, name = (ours or _EXTERNAL).partition(":")
    factory = getattr(importlib.import_module(module), name)
    known = _BOOLEANS if ours else {"root": "root", "systemd_cgroup": "systemd_cgroup"}
    if unknown := sorted(set(options) - set(known)):
        raise InvalidArgument(f"use runtime {runtime or OURS!r}: it has no option {unknown[0]!r}")
    if ours:
        engine: Engine = factory(**{known[k]: v == "true" for k, v in options.items()})
        return engine
    external: Engine = factory(runtime, **{known[k]: v for k, v in options.items()})
    return external
