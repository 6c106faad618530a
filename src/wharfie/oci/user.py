# SPDX-License-Identifier: Apache-2.0
"""USER words -> numbers, from the image's own passwd and group files."""

from __future__ import annotations

from typing import NamedTuple


class ResolvedUser(NamedTuple):
    """`home` is the passwd entry's, or "/" for a number without one."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    home: str = "/"
