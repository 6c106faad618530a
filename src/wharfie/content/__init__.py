# SPDX-License-Identifier: Apache-2.0
"""Content: blobs by digest, in OCI layout, and partial downloads that resume.

`<root>/content/blobs/<algorithm>/<hex>` are whole and verified; `<root>/content/ingest/<sha256 of ref>/{data,ref,total}`
are not. A blob appears by rename after its size and digest were checked, so whoever sees it may trust it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class BlobInfo(NamedTuple):
    digest: str
    size_bytes: int
    created_s: float


class IngestStatus(NamedTuple):
    ref: str
    offset: int
    total_bytes: int
    started_s: float


class Writer(Protocol):
    """An open ingest. One writer per ref at a time (flock); `offset` > 0 when an earlier partial was taken up."""

    ref: str
    offset: int

    def write(self, data: bytes | memoryview) -> int: ...

    def replay(self) -> Iterator[bytes]:
        """The bytes before `offset`, in chunks (a resumed download feeds its unpacker with them)."""

    def digest(self) -> str:
        """Digest of everything written so far: names a blob whose digest nobody announced."""

    def truncate(self) -> None:
        """Start again from zero."""

    def commit(self, size_bytes: int, digest: str) -> None:
        """Verify, fsync, rename. Raises DataLoss (nothing stays), OutOfRange. A blob that is there already is fine."""

    def close(self) -> None:
        """Let go without committing; the partial stays and can be resumed. Idempotent, also after commit."""

    def discard(self) -> None:
        """Let go and remove the partial."""


class Store(Protocol):
    def info(self, digest: str) -> BlobInfo:
        """Raises NotFound."""

    def has(self, digest: str) -> bool: ...

    def path(self, digest: str) -> str:
        """Path of a blob. Raises NotFound."""

    def read(self, digest: str, *, max_bytes: int) -> bytes:
        """A whole small blob, verified again. Raises NotFound, DataLoss, ResourceExhausted (larger than max_bytes)."""

    def open(self, digest: str) -> int:
        """A read-only descriptor; the caller closes it. Raises NotFound."""

    def put(self, data: bytes, digest: str | None = None) -> str:
        """Store a small blob, return its digest. Raises DataLoss where `digest` is given and differs."""

    def writer(self, ref: str, *, total_bytes: int = 0, digest: str | None = None) -> Writer:
        """Open or resume the ingest `ref`; `digest` selects the hash. Raises Unavailable if another process writes it."""

    def delete(self, digest: str) -> None:
        """Raises NotFound."""

    def walk(self) -> Iterator[BlobInfo]: ...

    def ingests(self) -> Iterator[IngestStatus]: ...

    def abort(self, ref: str) -> None:
        """Throw a partial download away. Raises NotFound, Unavailable (somebody writes it)."""
