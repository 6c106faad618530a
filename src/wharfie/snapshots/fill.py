# SPDX-License-Identifier: Apache-2.0
"""Directories that a layer has without describing them, filled from what is below.

Many tools write `opt/app/file` and no entry for `opt` and `opt/app`. Stacked by overlayfs, a layer's own directory
decides how it looks, so such a layer would reset owners and modes of directories that exist below. Extraction on top
of a mounted parent gets this right by accident; layers that are unpacked by themselves need help: a tree of nothing but
those directories, laid over the layer in the one stack where it is right.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from wharfie.snapshots.layers import Attributes

if sys.platform != "win32":
    from wharfie.fsutil.beneath import open_in_root
    from wharfie.linux.openat2 import O_PATH

    _FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    _ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}

    def attributes(path: str | int) -> Attributes:
        """What a directory looks like now."""
        st = os.stat(path)
        xattrs = {os.fsencode(key): os.getxattr(path, key) for key in os.listxattr(path)}
        hidden = [key for key in xattrs if key.startswith((b"trusted.overlay.", b"user.overlay."))]
        for key in hidden:
            del xattrs[key]
        return Attributes(stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns, xattrs)

    def describe(path: str, a: Attributes) -> None:
        """Give a directory these attributes."""
        os.chown(path, a.uid, a.gid)
        for key, value in a.xattrs.items():
            os.setxattr(path, key, value)
        os.chmod(path, a.mode)
        os.utime(path, ns=(a.mtime_ns, a.mtime_ns))

    def at(root_fd: int, path: str) -> Attributes | None:
        """Attributes of the directory `path` beneath root_fd; None where there is none, or only by a link."""
        try:
            fd = open_in_root(root_fd, path, _FLAGS | os.O_DIRECTORY, symlinks=False)
        except OSError as e:
            if e.errno in _ABSENT:
                return None
            raise
        try:
            return attributes(fd)
        finally:
            os.close(fd)

    def through_links(implicit: list[str], parent_fd: int) -> bool:
        """Whether a directory that a layer does not describe is, below it, a symbolic link to a directory."""
        for path in implicit:
            try:
                fd = open_in_root(parent_fd, path, O_PATH | os.O_NOFOLLOW)
            except OSError as e:
                if e.errno in _ABSENT:
                    continue
                raise
            link = stat.S_ISLNK(os.fstat(fd).st_mode)
            os.close(fd)
            if link and _leads_to_directory(parent_fd, path):
                return True
        return False

    def _leads_to_directory(parent_fd: int, path: str) -> bool:
        try:
            os.close(open_in_root(parent_fd, path, O_PATH | os.O_DIRECTORY))
        except OSError as e:
            if e.errno in _ABSENT:
                return False
            raise
        return True

    def write(implicit: list[str], parent_fd: int, merged_fd: int, target: str) -> bool:
        """Write the tree of directories at the new path `target`; False (and nothing) where none is needed.

        `parent_fd` shows what is below, `merged_fd` the layer on it; `implicit` has parents before children.
        """
        wanted: dict[str, Attributes] = {}
        for path in implicit:
            below = at(parent_fd, path)
            if below is None:
                continue
            wanted[path] = below
            while path := os.path.dirname(path):
                if path not in wanted:
                    above = at(merged_fd, path)
                    if above is not None:
                        wanted[path] = above
        if not wanted:
            return False
        os.mkdir(target, 0o755)
        for path in sorted(wanted):
            os.mkdir(os.path.join(target, path), 0o755)
        for path in sorted(wanted, reverse=True):
            describe(os.path.join(target, path), wanted[path])
        return True
