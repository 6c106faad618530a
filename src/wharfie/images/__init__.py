# SPDX-License-Identifier: Apache-2.0
"""Images: what a name points to, and everything that can be read from there.

An image is a record (name -> target descriptor) in metadata plus blobs in content. This package walks manifests
(`walk`), says what an image holds on to (`walk.references`, for garbage collection), writes and reads archives
(`saving`, `loading`) and makes images out of layers (`making`: import, commit, build).
On disk it owns nothing.

Names are normalised references (`str(parse_reference(text))`): `docker.io/library/debian:latest`. A record whose name
is `DANGLING_PREFIX` + digest is an image without a name (decisions 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from wharfie.metadata import KIND_BLOB as KIND_BLOB
from wharfie.metadata import KIND_LAYER as KIND_LAYER
from wharfie.metadata import KIND_SNAPSHOT as KIND_SNAPSHOT
from wharfie.metadata import Ref as Ref
from wharfie.metadata.images import ImageRow
from wharfie.spec.image import Descriptor

DANGLING_PREFIX = "<none>@"
"""Name of a record without a name: this and the target's digest. No reference can look so."""


ImageRecord = ImageRow
"""One row of the images table: name, target, labels, created_s, updated_s."""


class ImageRecords(Protocol):
    """The image records of one namespace. Blocking; safe to call from several threads."""

    def get(self, name: str) -> ImageRecord:
        """Raises NotFound."""

    def put(
        self,
        name: str,
        target: Descriptor,
        *,
        refs: Iterable[Ref] = (),
        labels: Mapping[str, str] | None = None,
    ) -> ImageRecord:
        """Create or replace `name`, and in the same transaction its outgoing references: `refs`, whole, not added.

        Where `name` pointed to another target, that target gets a dangling record if no other name has it.
        """

    def list(self) -> list[ImageRecord]: ...

    def delete(self, name: str) -> None:
        """Remove the record and its references; what they held is garbage at the next collection. Raises NotFound."""
