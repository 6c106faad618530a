# SPDX-License-Identifier: Apache-2.0
"""The one table from runtime name to engine. Anything else is a program with runc's command line."""

from __future__ import annotations

import importlib
import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie.errdefs import InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.runtime import Engine
    from wharfie.runtime.linux.checkpoint import Request

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


def make_restored(runtime: str, options: dict[str, str], request: Request) -> Engine:
    """An engine whose container begins with a checkpoint's processes. Raises Unsupported for other runtimes."""
    if (runtime or OURS) != OURS or options.get("no_pivot") == "true" or options.get("systemd_cgroup") == "true":
        raise Unsupported(f"restore with runtime {runtime or OURS!r}: only {OURS} does, with cgroupfs and pivot_root")
    from wharfie.runtime.linux.restore import RestoredEngine

    return RestoredEngine(request, no_new_keyring=options.get("no_new_keyring") == "true")
