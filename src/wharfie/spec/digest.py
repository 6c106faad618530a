# SPDX-License-Identifier: Apache-2.0
"""Digests: OCI image-spec descriptor.md, "Digests"; chain ids: config.md, "Layer ChainID"."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NewType

from wharfie.errdefs import InvalidArgument

Digest = NewType("Digest", str)
"""`sha256:<64 hex>` (or sha512) of bytes as stored: a blob."""
DiffID = NewType("DiffID", str)
"""Digest of a layer's uncompressed tar."""
ChainID = NewType("ChainID", str)
"""Digest that names a stack of layers."""

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HEX = frozenset("0123456789abcdef")


def parse_digest(text: str) -> Digest:
    """Check `text` and return it as a Digest. Raises InvalidArgument: it also becomes a path, so nothing is let by."""
    algorithm, _, encoded = text.partition(":")
    if len(encoded) != _HEX_LENGTH.get(algorithm, -1) or not _HEX.issuperset(encoded):
        raise InvalidArgument(
            f"parse digest {text!r}: not sha256:<64 hex digits> or sha512:<128 hex digits>",
            hint="digests are written in lower case and in full",
        )
    return Digest(text)


def is_digest(text: str) -> bool:
    algorithm, _, encoded = text.partition(":")
    return len(encoded) == _HEX_LENGTH.get(algorithm, -1) and _HEX.issuperset(encoded)


def encoded(digest: str) -> str:
    """The hex part of a checked digest."""
    return parse_digest(digest).partition(":")[2]


def hasher(digest: str) -> hashlib._Hash:
    """A fresh hash object of the algorithm that `digest` names."""
    return hashlib.new(parse_digest(digest).partition(":")[0])


def sha256(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def chain_id(diff_ids: Iterable[str]) -> ChainID:
    """ChainID of a stack, bottom layer first. Raises InvalidArgument for an empty stack."""
    return chain_ids(list(diff_ids))[-1]


def chain_ids(diff_ids: list[str]) -> list[ChainID]:
    """ChainID of each prefix of a stack: chain(L0)=L0, chain(L0..Ln)=sha256(chain(L0..Ln-1) + " " + Ln)."""
    if not diff_ids:
        raise InvalidArgument("compute chain id: no layers")
    chain: list[ChainID] = [ChainID(parse_digest(diff_ids[0]))]
    for diff in diff_ids[1:]:
        chain.append(ChainID(sha256(f"{chain[-1]} {parse_digest(diff)}".encode())))
    return chain
