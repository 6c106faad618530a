# SPDX-License-Identifier: Apache-2.0
"""One small try per snapshotter, on the file system where its store is to be. Nothing stays."""

from __future__ import annotations

import os
import sys

from wharfie.errdefs import WharfieError
from wharfie.snapshots import Probe
from wharfie.snapshots.removal import remove_tree


def probe(name: str, directory: str) -> Probe:
    """The answer for `name` with its store at `directory`, which is made if it is missing."""
    if sys.platform == "win32":
        return Probe(name, ok=False, reason="a snapshotter of Linux")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    place = os.path.join(directory, f"probe-{os.getpid():x}-{os.urandom(4).hex()}")
    os.mkdir(place, 0o700)
    try:
        if name == "native":
            return Probe(name, ok=True, reason="copies files; works anywhere, needs the space")
        _try_overlay(place)
        if name == "overlay":
            return Probe(name, ok=True, reason="layers are extracted, overlayfs stacks them")
        return Probe(name, ok=True, reason=_try_erofs(place))
    except (OSError, WharfieError) as e:
        return Probe(name, ok=False, reason=str(e))
    finally:
        remove_tree(place)


def _try_overlay(place: str) -> None:
    from wharfie.linux import mountapi

    for name in ("lower", "upper", "work"):
        os.mkdir(os.path.join(place, name), 0o755)
    options = [f"{key}={os.path.join(place, name)}" for key, name in _OVERLAY]
    fd = mountapi.new_mount("overlay", options, source="overlay")
    try:
        # Comes up read-only, without an error, on a file system that cannot hold an upper (tmpfs of old, NFS, overlay).
        os.close(os.open("probe", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd))
    finally:
        os.close(fd)


_OVERLAY = (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work"))


def _try_erofs(place: str) -> str:
    from wharfie.snapshots.erofs.attach import mount_file
    from wharfie.snapshots.erofs.image import BLOCK_BYTES, write_metadata
    from wharfie.snapshots.tree import Tree

    parts: list[bytes] = []
    head = write_metadata(Tree(), BLOCK_BYTES, bytes(16), parts.append)
    path = os.path.join(place, "probe.erofs")
    with open(path, "wb") as f:
        f.write(head + b"".join(parts))
    try:
        os.close(mount_file(path, loop=False))
        return "layers are EROFS files, mounted by the file itself"
    except OSError as direct:
        try:
            os.close(mount_file(path, loop=True))
        except OSError as e:
            raise OSError(direct.errno, f"EROFS by file: {direct}; by loop device: {e}") from e
        return f"layers are EROFS files, mounted by loop devices ({direct})"
