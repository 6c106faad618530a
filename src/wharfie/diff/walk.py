# SPDX-License-Identifier: Apache-2.0
"""One walk for both sorts of difference: an overlay's upper directory on its lower tree, and two whole trees.

In an upper directory only what was touched is there: whiteouts (devices 0/0) delete, an opaque directory hides what is
below it. A whole tree is read as if every directory were opaque: what it does not have was deleted.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from wharfie.archive.entry import DIRECTORY, REGULAR, Entry
from wharfie.archive.layer import OPAQUE_XATTR, WHITEOUT_PREFIX
from wharfie.archive.scan import MAX_PATH_BYTES
from wharfie.diff import ADDED, CHANGED, DELETED
from wharfie.diff.found import Found, same_attributes, same_data, settle
from wharfie.errdefs import FailedPrecondition

_REDIRECT_XATTR = "trusted.overlay.redirect"
_METACOPY_XATTR = "trusted.overlay.metacopy"

if sys.platform != "win32":
    from wharfie.archive.pack import describe, open_directory

    class Walk:
        """Compares below two open directories; `lower_fd` is None for an empty one. `whole`: upper is a whole tree."""

        def __init__(self, lower_fd: int | None, upper_fd: int, *, whole: bool) -> None:
            self._whole = whole
            self._found: list[Found] = []
            self._lower, self._upper = lower_fd, upper_fd

        def run(self) -> list[Found] | None:
            """What differs, parents first, siblings sorted bytewise. The root itself only if its attributes do.

            None where overlayfs has renamed a directory (redirect): an upper directory by itself does not say enough.
            Raises: FailedPrecondition (metacopy, names that no layer can hold), OSError.
            """
            upper = describe(self._upper, b".", b"")
            lower = None if self._lower is None else describe(self._lower, b".", b"")
            assert upper is not None
            upper.name = b""
            if lower is not None:
                # Its time changes with every name in it, and readers have no entry to restore it from otherwise.
                lower.mtime_s, lower.mtime_ns = upper.mtime_s, upper.mtime_ns
                if not same_attributes(upper, lower):
                    self._found.append(Found(CHANGED, b"", upper))
            try:
                self._directory(self._upper, self._lower, b"", hidden=self._whole)
            except _RedirectError:
                return None
            return settle(self._found)

        def _directory(self, upper: int, lower: int | None, path: bytes, *, hidden: bool) -> None:
            """`hidden`: what lower has and upper has not is gone."""
            names = set(map(os.fsencode, os.listdir(upper)))
            if hidden and lower is not None:
                names.update(map(os.fsencode, os.listdir(lower)))
            for name in sorted(names):
                below = path + b"/" + name if path else name
                if len(below) > MAX_PATH_BYTES:
                    raise FailedPrecondition(f"compare trees: path is too long for a layer: {below[:200]!r}…")
                there = None if lower is None else _describe(lower, name, path)
                entry = _describe(upper, name, path)
                if entry is None or self._is_whiteout(entry):
                    if there is not None and (hidden or entry is not None):
                        self._found.append(Found(DELETED, below, None))
                    continue
                if name.startswith(WHITEOUT_PREFIX):
                    raise FailedPrecondition(
                        f"compare trees: {below!r}: a layer cannot hold a name that starts with `.wh.`",
                        hint="rename it in the container",
                    )
                kind = ADDED if there is None else CHANGED
                if entry.kind == DIRECTORY:
                    self._subdirectory(upper, lower, entry, there, kind, hidden=hidden)
                else:
                    self._file(upper, lower, entry, there, kind)

        def _subdirectory(
            self, upper: int, lower: int | None, entry: Entry, there: Entry | None, kind: str, *, hidden: bool
        ) -> None:
            same = there is not None and same_attributes(entry, there)
            self._found.append(Found(kind, entry.path, entry, same=same))
            fd = open_directory(entry.name, upper)
            try:
                if not self._whole:
                    hidden = hidden or _opaque(fd)
                if there is None or there.kind != DIRECTORY:
                    self._directory(fd, None, entry.path, hidden=hidden)
                    return
                below = open_directory(entry.name, lower)
                try:
                    self._directory(fd, below, entry.path, hidden=hidden)
                finally:
                    os.close(below)
            finally:
                os.close(fd)

        def _file(self, upper: int, lower: int | None, entry: Entry, there: Entry | None, kind: str) -> None:
            st = os.stat(entry.name, dir_fd=upper, follow_symlinks=False)
            inode = (st.st_dev, st.st_ino) if st.st_nlink > 1 else None
            if entry.kind == REGULAR and not self._whole:
                self._refuse_metacopy(upper, entry)
            same = there is not None and same_attributes(entry, there)
            if same and entry.kind == REGULAR:
                assert lower is not None
                same = same_data(upper, lower, entry.name)
            self._found.append(Found(kind, entry.path, entry, inode=inode, same=same))

        def _is_whiteout(self, entry: Entry) -> bool:
            return not self._whole and stat.S_ISCHR(entry.kind) and entry.device == (0, 0)

        def _refuse_metacopy(self, upper: int, entry: Entry) -> None:
            path = b"/proc/self/fd/%d/%s" % (upper, entry.name)
            if _xattr(path, _METACOPY_XATTR) is not None:
                raise FailedPrecondition(
                    f"compare trees: {entry.path!r} has its attributes here and its data below (metacopy)",
                    hint="mount the snapshot without overlayfs's metacopy feature",
                )

    def _describe(fd: int, name: bytes, path: bytes) -> Entry | None:
        try:
            return describe(fd, name, path)
        except FileNotFoundError:
            return None

    class _RedirectError(Exception):
        pass

    def _opaque(fd: int) -> bool:
        if _xattr(fd, _REDIRECT_XATTR) is not None:
            raise _RedirectError
        return _xattr(fd, OPAQUE_XATTR) == b"y"

    def _xattr(target: int | bytes, name: str) -> bytes | None:
        try:
            return os.getxattr(target, name, follow_symlinks=isinstance(target, int))
        except OSError as e:
            if e.errno in {errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT}:
                return None
            raise
