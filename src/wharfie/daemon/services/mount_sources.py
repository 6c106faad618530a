# SPDX-License-Identifier: Apache-2.0
"""Host sides of mounts: does a bind's source exist, can its file system be idmapped. Blocking.

The rule for what cannot be idmapped (userns.md 3): it is bound plain, owners show as 65534 in the container, and the
log says so.
"""

from __future__ import annotations

import logging
import os

from wharfie.errdefs import InvalidArgument
from wharfie.oci.mounts import MountRequest

_log = logging.getLogger(__name__)

IDMAPPABLE = frozenset({
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "erofs", "squashfs", "vfat", "ntfs3", "exfat", "zonefs",
    "bcachefs", "ramfs",
})  # fmt: skip


def _mount_table() -> list[tuple[str, str]]:
    """(mount point, file system type), in mount order."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            left, _, right = line.partition(" - ")
            point = left.split(" ", 5)[4]
            if "\\" in point:
                point = (
                    point.encode("utf-8", "surrogateescape")
                    .decode("unicode_escape")
                    .encode("latin-1")
                    .decode("utf-8", "surrogateescape")
                )
            found.append((point, right.split(" ", 1)[0]))
    return found


def can_idmap(path: str, *, recursive: bool = True) -> bool:
    """Whether the file system of `path`, and with `recursive` all that is mounted below it, can be idmapped."""
    real = os.path.realpath(path)
    below = real.rstrip("/") + "/"
    best, kind = "", ""
    for point, type_ in _mount_table():
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, type_
        elif recursive and point.startswith(below) and type_ not in IDMAPPABLE:
            return False
    return kind in IDMAPPABLE


def bind_source(request: MountRequest) -> tuple[str, bool]:
    """(host path, idmap) of a bind. Raises InvalidArgument where the source does not exist and may not be made."""
    source = request.source
    if not os.path.lexists(source) or not os.path.exists(source):
        if not request.create_source:
            raise InvalidArgument(
                f'invalid mount config for type "bind": bind source path does not exist: {source}',
                hint="make it first, or use -v, which makes a directory",
            )
        try:
            os.makedirs(source, 0o755, exist_ok=True)
        except OSError as e:
            raise InvalidArgument(f"make bind source {source!r}: {e.strerror}") from e
    idmap = can_idmap(source, recursive=request.recursive)
    if not idmap:
        _log.info("bind %s: its file system cannot be idmapped: owners show as 65534 in a user namespace", source)
    return source, idmap


def volume_subpath(volume: str, directory: str, subpath: str) -> str:
    """Host path of `subpath` in a volume's directory, nothing followed. Raises InvalidArgument."""
    current = directory
    for part in subpath.split("/"):
        if part in {"", "."}:
            continue
        current = os.path.join(current, part)
        if part == ".." or os.path.islink(current) or not os.path.exists(current):
            raise InvalidArgument(
                f"mount subpath {subpath!r} of volume {volume!r}: it is not a plain path to something in the volume"
            )
    return current
