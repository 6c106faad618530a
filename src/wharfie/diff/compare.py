# SPDX-License-Identifier: Apache-2.0
"""The changes of an active snapshot: as a list, and as the tar of a layer."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from wharfie.archive.entry import DIRECTORY, HARDLINK, REGULAR, Entry
from wharfie.archive.layer import WHITEOUT_PREFIX
from wharfie.archive.write import Put, Writer
from wharfie.diff import ADDED, CHANGED, Change
from wharfie.errdefs import Aborted
from wharfie.mount import Mount
from wharfie.snapshots import Snapshotter

if sys.platform != "win32":
    from wharfie.archive.pack import from_stat, read
    from wharfie.diff.found import Found
    from wharfie.diff.walk import Walk
    from wharfie.fsutil.beneath import open_in_root

    def changes(snapshotter: Snapshotter, key: str, *, stubs: Collection[bytes] = ()) -> list[Change]:
        """What `key` changed against its parent, sorted. Raises NotFound, FailedPrecondition, OSError.

        `stubs`: paths of mount points that an engine makes; empty files and directories added there are not counted.
        """
        with _compared(snapshotter, key, stubs) as (found, _):
            return [Change(f.kind, b"/" + f.path) for f in found if f.path]

    def write_layer(
        snapshotter: Snapshotter, key: str, put: Put, *, whole_seconds: bool = False, stubs: Collection[bytes] = ()
    ) -> None:
        """Write the changes of `key` as a layer through `put`. The same changes give the same bytes.

        A container that writes meanwhile should be paused. `whole_seconds` leaves fractions out of times.
        Raises: NotFound, Aborted (a file changed while it was read), FailedPrecondition (what a layer cannot hold).
        """
        with _compared(snapshotter, key, stubs) as (found, upper_fd):
            write_found(found, upper_fd, put, whole_seconds=whole_seconds)

    def compare_mounts(lower: Sequence[Mount], upper: Sequence[Mount]) -> list[Change]:
        """Differences of two mounted trees, whatever they are made of; `lower` may be empty."""
        with ExitStack() as stack:
            lower_fd = _opened(lower, stack) if lower else None
            found = Walk(lower_fd, _opened(upper, stack), whole=True).run() or []
        return [Change(f.kind, b"/" + f.path) for f in found if f.path]

    def write_mounts(lower: Sequence[Mount], upper: Sequence[Mount], put: Put, *, whole_seconds: bool = False) -> None:
        """The layer that leads from one mounted tree to another; `lower` may be empty."""
        with ExitStack() as stack:
            lower_fd = _opened(lower, stack) if lower else None
            upper_fd = _opened(upper, stack)
            write_found(Walk(lower_fd, upper_fd, whole=True).run() or [], upper_fd, put, whole_seconds=whole_seconds)

    @contextmanager
    def _compared(
        snapshotter: Snapshotter, key: str, stubs: Collection[bytes] = ()
    ) -> Iterator[tuple[list[Found], int]]:
        """Changes of a snapshot, and a descriptor of the tree that holds them."""
        upper = snapshotter.upper(key)
        with ExitStack() as stack:
            lower_fd = _opened(snapshotter.below(key), stack)
            found = None
            if upper is not None:
                upper_fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, upper_fd)
                found = Walk(lower_fd, upper_fd, whole=False).run()
            if found is None:
                upper_fd = _opened(_following(snapshotter.mounts(key)), stack)
                found = Walk(lower_fd, upper_fd, whole=True).run() or []
            yield _without(found, stubs, lower_fd), upper_fd

    def _following(mounts: Sequence[Mount]) -> list[Mount]:
        """The same with overlayfs's redirects followed, whoever made them."""
        return [
            m._replace(options=tuple(o.replace("redirect_dir=nofollow", "redirect_dir=follow") for o in m.options))
            for m in mounts
        ]

    def _without(found: list[Found], stubs: Collection[bytes], lower_fd: int) -> list[Found]:
        """Leave out stubs, and directories in which nothing else happened than that a stub was made."""
        if not stubs:
            return found
        parents: set[bytes] = set()
        touched: set[bytes] = set()
        kept = []
        for f in reversed(found):
            parent = f.path.rpartition(b"/")[0]
            entry = f.entry
            if entry is not None and f.path not in parents:
                empty = entry.kind == DIRECTORY or (entry.kind == REGULAR and not entry.size)
                if f.kind == ADDED and f.path in stubs and empty:
                    touched.add(parent)
                    continue
                if f.path in touched and f.kind == CHANGED and _same_but_time(entry, lower_fd, f.path):
                    continue
            if f.path:
                parents.add(parent)
            kept.append(f)
        kept.reverse()
        return kept

    def _same_but_time(entry: Entry, lower_fd: int, path: bytes) -> bool:
        fd = open_in_root(lower_fd, path or b"/", os.O_PATH | os.O_NOFOLLOW, symlinks=False)
        try:
            below = os.fstat(fd)
        finally:
            os.close(fd)
        return (entry.kind | entry.mode, entry.uid, entry.gid) == (below.st_mode, below.st_uid, below.st_gid)

    def _opened(mounts: Sequence[Mount], stack: ExitStack) -> int:
        from wharfie.mount.detached import open_tree

        tree = open_tree(mounts, read_only=True, idmap=False)
        stack.callback(os.close, tree)
        fd = os.open(f"/proc/self/fd/{tree}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        return fd

    def write_found(found: list[Found], upper_fd: int, put: Put, *, whole_seconds: bool) -> None:
        writer = Writer(put, whole_seconds=whole_seconds)
        first: dict[tuple[int, int], bytes] = {}
        for f in found:
            entry = f.entry
            if entry is None:
                parent, _, name = f.path.rpartition(b"/")
                writer.add(Entry(parent, WHITEOUT_PREFIX + name, REGULAR, 0))
                continue
            if f.inode is not None:
                known = first.setdefault(f.inode, f.path)
                if known != f.path:
                    entry.kind, entry.link, entry.size, entry.xattrs = HARDLINK, known, 0, None
            if entry.kind == REGULAR:
                _add_file(writer, upper_fd, entry)
            else:
                writer.add(entry)
        writer.close()

    def _add_file(writer: Writer, upper_fd: int, entry: Entry) -> None:
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = open_in_root(upper_fd, entry.path, flags, symlinks=False)
        except (FileNotFoundError, NotADirectoryError) as e:
            raise Aborted(f"write layer: {entry.path!r} has gone meanwhile", hint="pause the container") from e
        try:
            st = os.fstat(fd)
            now = from_stat(entry.parent, entry.name, st, xattrs=entry.xattrs)
            if now.kind != REGULAR:
                raise Aborted(f"write layer: {entry.path!r} has changed meanwhile", hint="pause the container")
            writer.add(now, read(fd))
        finally:
            os.close(fd)
