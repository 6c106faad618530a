# SPDX-License-Identifier: Apache-2.0
"""The Mount value: the currency between snapshotters and runtimes. Neither side knows the other.

A Mount is always plain mount(2)-able (decisions 9): type, source path, options. Two options are ours and containerd's:
`uidmap=C:H:S[;C:H:S…]` and `gidmap=…` ask for an id-mapped mount. Opening mounts as detached descriptors
(`mount.detached`) is an optimisation for our own shim; anybody else mounts them at a path (`mount.attached`).
"""

from __future__ import annotations

from typing import NamedTuple


class Mount(NamedTuple):
    """One mount. `target` is a directory beneath the root being assembled ("" is the root itself)."""

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()
