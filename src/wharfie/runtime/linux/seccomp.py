# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles of the spec, compiled to BPF. Slice: replaced by the compiler below."""

from __future__ import annotations

from wharfie.spec.runtime import Seccomp


def compiled(profile: Seccomp) -> tuple[bytes, int]:
    raise NotImplementedError
