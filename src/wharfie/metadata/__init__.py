# SPDX-License-Identifier: Apache-2.0
"""Metadata: one SQLite database for every namespace, and garbage collection over its references.

    store       the database: one writer thread, readers in any thread, migrations of registered tables
    images      what a name points to
    containers  containerd's container records, Docker's document as an extension
    leases      what must be kept for a while
    refs        who keeps what
    gc          mark and sweep over refs

In comes a path, out go rows (NamedTuples). Everything is blocking and safe in several threads. On disk:
`<root>/metadata.db` (WAL). An upper package adds its own tables by `Store.register(component, migrations)`.

References (decisions 7): one row `(ns, from_kind, from_id, to_kind, to_id)` for each thing that an owner keeps, written
in the transaction that writes the owner. Whoever has rows in `refs` as `from_*` is a root; deleting the owner deletes
its rows. What nobody refers to is garbage.
"""

from __future__ import annotations

from typing import NamedTuple

KIND_IMAGE, KIND_CONTAINER, KIND_LEASE, KIND_BUILD = "image", "container", "lease", "build"
"""Kinds of owners."""
KIND_BLOB, KIND_LAYER, KIND_SNAPSHOT = "blob", "layer", "snapshot"
"""Kinds of things kept. Ids: digest; diff_id; chain_id."""


class Ref(NamedTuple):
    """One thing that an owner keeps."""

    kind: str
    id: str
