# SPDX-License-Identifier: Apache-2.0
"""Layers made by Python's tarfile, and trees looked at: what snapshot tests compare."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence

from wharfie.mount import Mount
from wharfie.mount.detached import open_tree
from wharfie.snapshots import Snapshotter


def member(name: str, **fields) -> tarfile.TarInfo:
    """A tar member; `fields` are TarInfo's attributes, `xattrs` a dict."""
    info = tarfile.TarInfo(name)
    info.mtime = 1_600_000_000
    xattrs = fields.pop("xattrs", None)
    for key, value in fields.items():
        setattr(info, key, value)
    if xattrs:
        info.pax_headers = {f"SCHILY.xattr.{k}": v for k, v in xattrs.items()}
    return info


def directory(name: str, **fields) -> tarfile.TarInfo:
    return member(name, type=tarfile.DIRTYPE, **{"mode": 0o755, **fields})


def symlink(name: str, target: str, **fields) -> tarfile.TarInfo:
    return member(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777, **fields)


def hardlink(name: str, target: str, **fields) -> tarfile.TarInfo:
    return member(name, type=tarfile.LNKTYPE, linkname=target, **fields)


def device(name: str, kind: bytes, major: int, minor: int, **fields) -> tarfile.TarInfo:
    return member(name, type=kind, devmajor=major, devminor=minor, **fields)


Item = "tarfile.TarInfo | tuple[str, bytes] | tuple[tarfile.TarInfo, bytes] | str"


def tar(*items, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of members; (name, bytes) is a file, a plain string a directory (with "/") or an empty file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as t:
        for item in items:
            data = b""
            if isinstance(item, str):
                item = directory(item.rstrip("/")) if item.endswith("/") else member(item)
            elif isinstance(item, tuple):
                item, data = item
                if isinstance(item, str):
                    item = member(item)
            item.size = len(data)
            t.addfile(item, io.BytesIO(data))
    return out.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def put(snapshotter: Snapshotter, *tars: bytes, names: Sequence[str] = ()) -> str:
    """Ingest tars and stack them; the name of the top."""
    parent = None
    for i, data in enumerate(tars):
        diff_id = digest(data)
        snapshotter.ingest(io.BytesIO(data), compression="none", diff_id=diff_id)
        name = names[i] if names else digest(f"{parent} {diff_id}".encode())
        snapshotter.assemble(name, parent, diff_id)
        parent = name
    assert parent is not None
    return parent


@contextlib.contextmanager
def opened(mounts: Sequence[Mount]) -> Iterator[str]:
    """A path that shows mounts while the context lasts; nothing is attached anywhere."""
    fd = open_tree(mounts)
    try:
        yield f"/proc/{os.getpid()}/fd/{fd}"
    finally:
        os.close(fd)


def look(root: str, *, directory_times: bool = True) -> dict[str, tuple]:
    """Everything that makes up a tree: path -> (mode, uid, gid, content or link or device, mtime, xattrs, first link)."""
    found: dict[str, tuple] = {}
    first: dict[tuple[int, int], str] = {}

    def visit(path: str, shown: str) -> None:
        st = os.lstat(path)
        content: object = None
        link = None
        if stat.S_ISREG(st.st_mode):
            with open(path, "rb") as f:
                content = (st.st_size, hashlib.sha256(f.read()).hexdigest() if st.st_size < 1 << 24 else None)
            link = first.setdefault((st.st_dev, st.st_ino), shown) if st.st_nlink > 1 else None
        elif stat.S_ISLNK(st.st_mode):
            content = os.readlink(path)
        elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
            content = st.st_rdev
        xattrs = {k: os.getxattr(path, k, follow_symlinks=False) for k in os.listxattr(path, follow_symlinks=False)}
        time = st.st_mtime_ns if directory_times or not stat.S_ISDIR(st.st_mode) else None
        found[shown] = (oct(st.st_mode), st.st_uid, st.st_gid, content, time, xattrs, link)
        if stat.S_ISDIR(st.st_mode):
            for name in sorted(os.listdir(path)):
                visit(f"{path}/{name}", f"{shown}/{name}" if shown else name)

    visit(root + "/.", "")
    return found


def seen(snapshotter: Snapshotter, name: str, **options) -> dict[str, tuple]:
    """What a committed snapshot looks like through a view."""
    key = f"look-{os.urandom(4).hex()}"
    mounts = snapshotter.view(key, name)
    try:
        with opened(mounts) as path:
            return look(path, **options)
    finally:
        snapshotter.remove(key)
