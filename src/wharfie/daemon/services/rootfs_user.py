# SPDX-License-Identifier: Apache-2.0
"""USER words -> numbers, with the passwd and group files of a container's own root file system.

The root is opened as a detached read-only mount; both files are read beneath it without leaving it, following no magic
links, only if they are regular files, and never more than a bound (CVE-2026-47262, CVE-2024-9676).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence

from wharfie.errdefs import Conflict, InvalidArgument
from wharfie.mount import Mount
from wharfie.oci.user import MAX_FILE_BYTES, ResolvedUser, resolve_user

_CACHE_SIZE = 64
_cache: dict[str, tuple[bytes | None, bytes | None]] = {}
"""chain_id -> (passwd, group): a committed snapshot never changes. Oldest entries go first."""


def _read(root_fd: int, path: str) -> bytes | None:
    if sys.platform == "win32":
        return None
    from wharfie.fsutil.beneath import open_in_root

    try:
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None  # not there, or a link to nowhere: as if the image had none
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        chunks = []
        left = MAX_FILE_BYTES + 1
        while left > 0 and (chunk := os.read(fd, min(left, 1 << 16))):
            chunks.append(chunk)
            left -= len(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)


def _without_upper(mounts: Sequence[Mount]) -> list[Mount]:
    """An overlay's upper directory as its topmost lower one: looking must not make a second writer of it."""
    first = mounts[0]
    if first.type != "overlay":
        return list(mounts)
    upper = [o.removeprefix("upperdir=") for o in first.options if o.startswith("upperdir=")]
    if not upper:
        return list(mounts)
    options = []
    for option in first.options:
        if option.startswith("lowerdir="):
            options.append(f"lowerdir={upper[0]}:{option.removeprefix('lowerdir=')}")
        elif not option.startswith(("upperdir=", "workdir=")):
            options.append(option)
    return [first._replace(options=tuple(options)), *mounts[1:]]


def _files_of(root_fd: int) -> tuple[bytes | None, bytes | None]:
    try:
        return _read(root_fd, "/etc/passwd"), _read(root_fd, "/etc/group")
    finally:
        os.close(root_fd)


def files(mounts: Sequence[Mount]) -> tuple[bytes | None, bytes | None]:
    """(passwd, group) of the file system that `mounts` show, which no process uses. Blocking."""
    if sys.platform == "win32":
        raise InvalidArgument("read the image's users: not on Windows yet")
    from wharfie.mount.detached import open_tree

    return _files_of(open_tree(_without_upper(mounts), read_only=True, idmap=False))


def resolve_in(user: str, group_add: Sequence[str], pid: int) -> ResolvedUser:
    """In a running container, as its first process sees the files. Blocking. Raises InvalidArgument, Conflict (gone)."""
    if sys.platform == "win32":
        raise InvalidArgument("read the container's users: not on Windows yet")
    try:
        root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise Conflict(f"look up user {user!r}: the container's first process is gone") from e
    passwd, group = _files_of(root)
    return resolve_user(user, passwd, group, group_add)


def resolve(user: str, group_add: Sequence[str], mounts: Sequence[Mount], chain_id: str | None) -> ResolvedUser:
    """`chain_id` says that nothing was changed above that snapshot, so its files may be remembered; None looks again.

    Blocking. Raises InvalidArgument (see `oci.user`).
    """
    found = _cache.get(chain_id) if chain_id else None
    if found is None:
        found = files(mounts)
        if chain_id and sum(len(f or b"") for f in found) < 1 << 16:
            while len(_cache) >= _CACHE_SIZE:
                _cache.pop(next(iter(_cache)))
            _cache[chain_id] = found
    return resolve_user(user, found[0], found[1], group_add)
