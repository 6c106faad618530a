# SPDX-License-Identifier: Apache-2.0
"""`slice:prefix:name`, the cgroupsPath of the systemd driver, and slices. Pure.

Spec: runc docs/systemd.md; systemd.unit(5), systemd.slice(5).
"""

from __future__ import annotations

from typing import NamedTuple

from wharfie.errdefs import InvalidArgument

_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.\\@-")
_MAX_NAME = 255


class Scope(NamedTuple):
    """`path` is the cgroup of unit `name` below the hierarchies' roots."""

    slice: str
    name: str
    path: str


def is_scope(cgroups_path: str) -> bool:
    """Whether a cgroupsPath is of the systemd driver's form. A path that begins with `/` never is."""
    return cgroups_path.count(":") == 2 and not cgroups_path.startswith("/")


def read_scope(cgroups_path: str) -> Scope:
    """`slice:prefix:name`; an empty slice is system.slice. Raises InvalidArgument."""
    what = f"read cgroupsPath `{cgroups_path}`"
    if not is_scope(cgroups_path):
        raise InvalidArgument(f"{what}: the systemd driver takes slice:prefix:name")
    parent, prefix, name = cgroups_path.split(":")
    if not name or name.endswith(".slice"):
        raise InvalidArgument(f"{what}: a container is a scope: give it a name that doesn't end in .slice")
    unit = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    if not set(unit) <= _CHARACTERS or len(unit) > _MAX_NAME:
        raise InvalidArgument(f"{what}: `{unit}` is no name for a unit")
    parent = parent or "system.slice"
    return Scope(parent, unit, f"{slice_path(parent)}/{unit}")


def slice_path(name: str) -> str:
    """`a-b.slice` -> `/a.slice/a-b.slice`; `-.slice` is the root, "". Raises InvalidArgument."""
    if name == "-.slice":
        return ""
    stem = name.removesuffix(".slice")
    words = stem.split("-")
    if stem == name or not all(words) or not set(name) <= _CHARACTERS or len(name) > _MAX_NAME:
        raise InvalidArgument(f"read slice {name!r}: not the name of a slice", hint="for example machine.slice")
    return "".join(f"/{'-'.join(words[: n + 1])}.slice" for n in range(len(words)))
