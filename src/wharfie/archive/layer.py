# SPDX-License-Identifier: Apache-2.0
"""What makes a tar a layer: whiteouts and the names it may not use (OCI image-spec layer.md, "Whiteouts")."""

from __future__ import annotations

from wharfie.archive.entry import BLOCK, CHAR, Entry
from wharfie.errdefs import DataLoss

WHITEOUT_PREFIX = b".wh."
OPAQUE_MARKER = b".wh..wh..opq"
_META_PREFIX = b".wh..wh."
_RESERVED = (b"trusted.overlay.", b"user.overlay.")

OPAQUE_XATTR = "trusted.overlay.opaque"
ORIGIN_XATTR = "trusted.overlay.origin"

DELETES, CLEARS, IGNORED = 1, 2, 3


def whiteout(entry: Entry) -> tuple[int, bytes]:
    """(DELETES, name), (CLEARS, ""), (IGNORED, "") for an AUFS-style meta name; (0, "") for an ordinary entry.

    Raises: DataLoss (a whiteout of nothing, of `.` or `..`).
    """
    name = entry.name
    if not name.startswith(WHITEOUT_PREFIX):
        return 0, b""
    if name.startswith(_META_PREFIX):
        return (CLEARS, b"") if name == OPAQUE_MARKER else (IGNORED, b"")
    target = name[len(WHITEOUT_PREFIX) :]
    if target in {b"", b".", b".."}:
        raise DataLoss(f"read layer: whiteout {entry.path!r} names nothing")
    return DELETES, target


def check(entry: Entry) -> None:
    """Refuse what would speak to overlayfs instead of to the reader: its xattrs, and device 0/0, its whiteout.

    Raises: DataLoss.
    """
    if entry.xattrs:
        for key in entry.xattrs:
            if key.startswith(_RESERVED):
                raise DataLoss(
                    f"read layer: {entry.path!r} has the reserved extended attribute {key.decode(errors='replace')!r}"
                )
    if entry.kind in {CHAR, BLOCK} and entry.device == (0, 0):
        raise DataLoss(f"read layer: {entry.path!r} is a device 0/0, which overlayfs takes for a whiteout")
