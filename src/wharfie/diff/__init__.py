# SPDX-License-Identifier: Apache-2.0
"""Differences: what a container changed, as a list (`docker diff`) or as a layer; and layers put in from blobs.

`compare.changes` and `compare.write_layer` read an overlay's upper directory, or two whole trees where there is none.
The layer is a function of the changes: sorted, one form for every header, explicit whiteouts, nothing that equals what
is below. `apply.apply` turns a blob into a layer of a snapshotter.
"""

from __future__ import annotations

from typing import NamedTuple

ADDED, CHANGED, DELETED = "A", "C", "D"


class Change(NamedTuple):
    """`path` is absolute, as seen in the container."""

    kind: str
    path: bytes
