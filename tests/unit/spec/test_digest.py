# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib

import pytest

from wharfie.errdefs import InvalidArgument
from wharfie.spec import digest

A, B, C = (f"sha256:{c * 64}" for c in "abc")


@pytest.mark.parametrize("text", [A, "sha512:" + "0" * 128])
def test_good(text: str) -> None:
    assert digest.parse_digest(text) == text
    assert digest.is_digest(text)


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", A[:-1], A + "a", A.upper(), "sha1:" + "a" * 40, "sha512:" + "a" * 64, "sha256:" + "g" * 64,
     "sha256:../../../etc/passwd", A + "\n", " " + A, "sha256:" + "\u0660" * 64, "SHA256:" + "a" * 64],
)  # fmt: skip
def test_bad(text: str) -> None:
    assert not digest.is_digest(text)
    with pytest.raises(InvalidArgument):
        digest.parse_digest(text)


def test_chain_ids() -> None:
    """OCI config.md, "Layer ChainID"."""
    ab = "sha256:" + hashlib.sha256(f"{A} {B}".encode()).hexdigest()
    abc = "sha256:" + hashlib.sha256(f"{ab} {C}".encode()).hexdigest()
    assert digest.chain_ids([A, B, C]) == [A, ab, abc]
    assert digest.chain_id(iter([A, B, C])) == abc
    with pytest.raises(InvalidArgument):
        digest.chain_id([])
    with pytest.raises(InvalidArgument):
        digest.chain_id([A, "sha256:x"])


def test_hasher() -> None:
    h = digest.hasher(A)
    h.update(b"x")
    assert "sha256:" + h.hexdigest() == digest.sha256(b"x")
