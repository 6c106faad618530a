# SPDX-License-Identifier: Apache-2.0
"""Which snapshotter this host can do, found by trying, best first: erofs, overlay, native."""

from __future__ import annotations

import os
import sys

from wharfie.errdefs import FailedPrecondition, InvalidArgument, Unsupported
from wharfie.snapshots import Probe, Snapshotter

LADDER = ("erofs", "overlay", "native")


def directory(name: str, root: str) -> str:
    """Where the snapshotter `name` keeps its files below the engine's root."""
    return os.path.join(os.path.realpath(root), "snapshots", name)


def open_snapshotter(name: str, root: str, state: str) -> Snapshotter:
    """Open or create the store of `name` below the engine's root; nothing is mounted. Raises InvalidArgument."""
    if name not in LADDER:
        raise InvalidArgument(f"open snapshotter {name!r}: unknown", hint=f"known are {', '.join(LADDER)}")
    if sys.platform != "win32":
        path = directory(name, root)
        if name == "erofs":
            from wharfie.snapshots.erofs.snapshotter import ErofsSnapshotter

            erofs = ErofsSnapshotter(path, state)
            erofs.create()
            return erofs
        if name == "overlay":
            from wharfie.snapshots.overlay.snapshotter import OverlaySnapshotter

            overlay = OverlaySnapshotter(path, state)
            overlay.create()
            return overlay
        from wharfie.snapshots.native.snapshotter import NativeSnapshotter

        native = NativeSnapshotter(path)
        native.create()
        return native
    raise Unsupported(f"open snapshotter {name!r}: it is one of Linux")


def probe(name: str, root: str) -> Probe:
    """Try `name` on the file system of `root`, leaving nothing behind."""
    from wharfie.snapshots import probes

    return probes.probe(name, directory(name, root))


def probe_all(root: str, state: str) -> list[Probe]:  # noqa: ARG001 - Opener's signature
    return [probe(name, root) for name in LADDER]


def choose(root: str, state: str, configured: str | None) -> tuple[Snapshotter, list[Probe]]:
    """The configured snapshotter, or else the first rung that works, and what was tried on the way.

    Raises: InvalidArgument (unknown name), FailedPrecondition (the configured one cannot work here; or none can).
    """
    tried = []
    for name in (configured,) if configured else LADDER:
        if name not in LADDER:
            raise InvalidArgument(f"open snapshotter {name!r}: unknown", hint=f"known are {', '.join(LADDER)}")
        tried.append(probe(name, root))
        if tried[-1].ok:
            return open_snapshotter(name, root, state), tried
    reasons = "; ".join(f"{p.name}: {p.reason}" for p in tried)
    raise FailedPrecondition(
        f"choose snapshotter: {reasons}",
        hint="put the engine's root on a local file system, or leave `snapshotter` out of the configuration",
    )
