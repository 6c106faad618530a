# SPDX-License-Identifier: Apache-2.0
"""What `erofs` and `overlay` share: committed snapshots are stacks of layers, active ones an overlay on top.

entries/<hash>/root/         committed: an empty directory that looks like the stack's root
entries/<hash>/fill/         committed: directories laid over a layer that does not describe them (`fill`)
entries/<hash>/fs/, work/    active: the overlay's upper and work directory; committed with fs/: that is its layer
<state>/l/d<hash>            a short symbolic link to a directory in use as a layer: lowerdir= has one page
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator

from wharfie.errdefs import Conflict, FailedPrecondition, InvalidArgument, NotFound, Unsupported
from wharfie.mount import Mount
from wharfie.snapshots import KIND_ACTIVE, KIND_COMMITTED, KIND_VIEW, Info, Usage
from wharfie.snapshots.entries import Record, new_info
from wharfie.snapshots.layers import Attributes, Layers
from wharfie.snapshots.removal import measure, remove_tree

_PAGE_BYTES = 4096
_OVERLAY = ("index=off", "metacopy=off", "redirect_dir=nofollow")
"""Said outright, so that the host's defaults cannot change what an upper directory means to the differ."""
_PLAIN_ROOT = Attributes(0o755, 0, 0, 0, {})


class Layered(Layers):
    """`snapshots.Snapshotter` on overlayfs. Safe to use from several threads and processes."""

    def __init__(self, directory: str, state: str) -> None:
        super().__init__(directory)
        self._links = os.path.join(os.path.realpath(state), "l")
        self._empty = os.path.join(directory, "empty")
        self._has_shown = False
        self._known_paths: dict[str, tuple[tuple[int, int], list[str]]] = {}
        if any(character in path for path in (directory, self._links) for character in ",:\\"):
            raise InvalidArgument(
                f"open snapshotter {self.name!r}: overlayfs cannot take {directory!r} or {self._links!r}",
                hint="choose root and state directories without comma, colon and backslash",
            )

    def create(self) -> None:
        super().create()
        os.makedirs(self._empty, mode=0o755, exist_ok=True)

    def _shown(self, path: str) -> str:
        """A short path of a directory that shows the layer at `path`, good for lowerdir=."""
        self._has_shown = True
        link = self._link(path)
        try:
            if os.readlink(link) == path:
                return link
        except FileNotFoundError:
            pass
        os.makedirs(self._links, mode=0o700, exist_ok=True)
        part = f"{link}.{os.urandom(4).hex()}"
        os.symlink(path, part)
        os.rename(part, link)
        return link

    def _link(self, path: str) -> str:
        return os.path.join(self._links, "d" + hashlib.sha256(path.encode()).hexdigest()[:16])

    def _hide(self, path: str) -> None:
        try:
            os.unlink(self._link(path))
        except FileNotFoundError:
            pass

    def _release(self, used: set[str]) -> None:
        """Let go of everything that `_shown` made for layers whose path is not in `used`."""
        prefix = self.directory + "/"
        try:
            names = os.listdir(self._links)
        except FileNotFoundError:
            return
        for name in names:
            link = os.path.join(self._links, name)
            if name.startswith("d") and (path := os.readlink(link)).startswith(prefix) and path not in used:
                os.unlink(link)

    def assemble(self, name: str, parent: str | None, diff_id: str, *, labels: dict[str, str] | None = None) -> None:
        with self._entries.adding():
            if self._assembled(name, parent, diff_id):
                return
            if not self.has_layer(diff_id):
                raise NotFound(f"assemble snapshot {name!r}: no layer {diff_id} in {self.name!r}")
            if parent is not None:
                self._committed(parent, f"assemble snapshot {name!r}")
            record = Record(new_info(name, KIND_COMMITTED, parent, labels), diff_id)
            with self._entries.working():
                part = self._entries.temporary()
                os.mkdir(part, 0o700)
                try:
                    self._stack_on(parent, diff_id, part)
                    self._entries.add(record, moved=part, fsync=True)
                except BaseException:
                    remove_tree(part)
                    raise

    def _stack_on(self, parent: str | None, diff_id: str, place: str) -> None:
        """Put root/ into `place`, and fill/ where the layer needs it on this parent."""
        if sys.platform == "win32":
            return
        from wharfie.snapshots import fill, replay

        learnt = self._learnt(diff_id)
        look = learnt.root
        if look is None:
            look = _PLAIN_ROOT if parent is None else fill.attributes(self._root(parent))
        root = os.path.join(place, "root")
        os.mkdir(root, 0o755)
        fill.describe(root, look)
        if parent is not None and learnt.implicit:
            from wharfie.mount.detached import open_tree

            below = [self._shown(path) for path in self._paths(parent)]
            parent_fd = open_tree(_overlay([*below, self._empty], "ro"))
            try:
                if fill.through_links(learnt.implicit, parent_fd):
                    upper, work = os.path.join(place, "fs"), os.path.join(place, "work")
                    os.mkdir(upper, 0o755)
                    os.mkdir(work, 0o700)
                    mounts = _overlay(below, f"upperdir={upper}", f"workdir={work}")
                    replay.apply(self._shown(self._layer(diff_id)), learnt, mounts)
                    remove_tree(work)
                    return
                merged_fd = open_tree(_overlay([self._shown(self._layer(diff_id)), *below], "ro"))
                try:
                    fill.write(learnt.implicit, parent_fd, merged_fd, os.path.join(place, "fill"))
                finally:
                    os.close(merged_fd)
            finally:
                os.close(parent_fd)

    def _root(self, name: str) -> str:
        return os.path.join(self._entries.path(name), "root")

    def _assembled(self, name: str, parent: str | None, diff_id: str) -> bool:
        """Whether `name` exists, and just so. Raises Conflict where it is something else."""
        try:
            there = self._entries.get(name)
        except NotFound:
            return False
        if (there.info.parent, there.diff_id, there.info.kind) == (parent, diff_id, KIND_COMMITTED):
            return True
        raise Conflict(f"assemble snapshot {name!r}: it exists with another parent or layer")

    def _committed(self, name: str, doing: str) -> Record:
        try:
            record = self._entries.get(name)
        except NotFound:
            raise NotFound(f"{doing}: no parent {name!r}") from None
        if record.info.kind != KIND_COMMITTED:
            raise FailedPrecondition(f"{doing}: parent {name!r} is not committed")
        return record

    def _stack(self, name: str | None) -> list[Record]:
        """Records of a committed snapshot and all below it, top first."""
        stack = []
        while name is not None:
            record = self._committed(name, "look up snapshot")
            stack.append(record)
            name = record.info.parent
        return stack

    def chain(self, name: str) -> list[str]:
        stack = self._stack(name)
        for record in stack:
            if not record.diff_id:
                raise FailedPrecondition(f"list layers of {name!r}: {record.info.name!r} was never a layer of an image")
        return [record.diff_id for record in reversed(stack)]

    def stat(self, key: str) -> Info:
        return self._entries.get(key).info

    def usage(self, key: str) -> Usage:
        record = self._entries.get(key)
        if record.diff_id:
            info = self.layer_info(record.diff_id)
            return Usage(info.size_bytes, info.entries)
        return measure(os.path.join(self._entries.path(key), "fs"))

    def prepare(
        self, key: str, parent: str | None, *, labels: dict[str, str] | None = None, max_size_bytes: int | None = None
    ) -> list[Mount]:
        if max_size_bytes is not None:
            raise Unsupported(
                f"prepare snapshot {key!r}: {self.name!r} has no size limit on this file system",
                hint="leave the storage size option out",
            )
        return self._open(key, KIND_ACTIVE, parent, labels)

    def view(self, key: str, parent: str | None, *, labels: dict[str, str] | None = None) -> list[Mount]:
        return self._open(key, KIND_VIEW, parent, labels)

    def _open(self, key: str, kind: str, parent: str | None, labels: dict[str, str] | None) -> list[Mount]:
        if not key:
            raise InvalidArgument("prepare snapshot: the key is empty")
        with self._entries.adding():
            if parent is not None:
                self._committed(parent, f"prepare snapshot {key!r}")
            record = Record(new_info(key, kind, parent, labels))
            path = self._entries.add(record, ("fs", "work") if kind == KIND_ACTIVE else ("fs",))
            if parent is not None and kind == KIND_ACTIVE:
                _look_like(os.path.join(path, "fs"), self._root(parent))
        try:
            return self._mounts(record)
        except BaseException:
            self._entries.remove(key)
            raise

    def mounts(self, key: str) -> list[Mount]:
        record = self._entries.get(key)
        if record.info.kind == KIND_COMMITTED:
            raise FailedPrecondition(
                f"mount snapshot {key!r}: it is committed", hint="prepare or view a snapshot on it"
            )
        return self._mounts(record)

    def _mounts(self, record: Record) -> list[Mount]:
        path = self._entries.path(record.info.name)
        upper = os.path.join(path, "fs")
        if record.info.kind == KIND_VIEW:
            return self._read_only(record.info.parent, upper)
        lowers = [self._shown(layer) for layer in self._paths(record.info.parent)]
        if not lowers:
            return [Mount("bind", upper, options=("rbind", "rw"))]
        return _overlay(lowers, f"upperdir={upper}", f"workdir={os.path.join(path, 'work')}")

    def _read_only(self, name: str | None, empty: str) -> list[Mount]:
        """Mounts of a committed snapshot, or of the directory `empty`."""
        if name is None:
            return [Mount("bind", empty, options=("rbind", "ro"))]
        lowers = [self._shown(layer) for layer in self._paths(name)]
        # Its own root first, because a layer's may not be described; and overlayfs wants two.
        return _overlay([self._root(name), *lowers], "ro")

    def below(self, key: str) -> list[Mount]:
        return self._read_only(self._entries.get(key).info.parent, self._empty)

    def _paths(self, name: str | None) -> list[str]:
        """Layers of a committed snapshot as they lie on disk, top first.

        Remembered by the top's directory: nothing below a snapshot changes while it exists.
        """
        if name is None:
            return []
        try:
            st = os.stat(self._entries.path(name))
        except FileNotFoundError:
            st = None
        known = self._known_paths.get(name)
        if known is not None and st is not None and known[0] == (st.st_ino, st.st_ctime_ns):
            return known[1]
        paths = self._read_paths(name)
        if st is not None:
            if len(self._known_paths) > 1000:
                self._known_paths.clear()
            self._known_paths[name] = ((st.st_ino, st.st_ctime_ns), paths)
        return paths

    def _read_paths(self, name: str) -> list[str]:
        paths = []
        for record in self._stack(name):
            here = self._entries.path(record.info.name)
            own = os.path.join(here, "fs")
            if not record.diff_id or os.path.isdir(own):
                paths.append(own)
                continue
            fill = os.path.join(here, "fill")
            if os.path.isdir(fill):
                paths.append(fill)
            paths.append(self._layer(record.diff_id))
        return paths

    def upper(self, key: str) -> str | None:
        record = self._entries.get(key)
        return os.path.join(self._entries.path(key), "fs") if record.info.kind == KIND_ACTIVE else None

    def commit(self, name: str, key: str, *, labels: dict[str, str] | None = None, parent: str | None = None) -> None:
        with self._entries.adding():
            record = self._entries.get(key)
            if record.info.kind != KIND_ACTIVE:
                raise FailedPrecondition(f"commit snapshot {key!r}: it is {record.info.kind}, not active")
            if parent is None:
                parent = record.info.parent
            else:
                self._committed(parent, f"commit snapshot {key!r}")
            path = self._entries.path(key)
            remove_tree(os.path.join(path, "work"))
            os.makedirs(os.path.join(path, "root"), exist_ok=True)
            _look_like(os.path.join(path, "root"), os.path.join(path, "fs"))
            self._entries.rename(key, Record(new_info(name, KIND_COMMITTED, parent, labels)))

    def remove(self, key: str) -> None:
        record = self._entries.get(key)
        if record.info.kind != KIND_COMMITTED:
            self._entries.remove(key)
            return
        with self._entries.taking():
            for other in self._entries.walk():
                if other.info.parent == key:
                    raise Conflict(f"remove snapshot {key!r}: {other.info.name!r} stands on it")
            for name in ("fill", "fs"):
                Layered._hide(self, os.path.join(self._entries.path(key), name))
            self._entries.remove(key)

    def walk(self) -> Iterator[Info]:
        for record in self._entries.walk():
            yield record.info

    def cleanup(self) -> None:
        self._entries.sweep()
        self._sweep_sidecars()
        with self._entries.taking():  # or a snapshot that is opened just now would lose its layers
            self._release(self._used(lambda _: True))

    def close(self) -> None:
        if self._idle():
            return
        with self._entries.taking():
            self._release(self._used(lambda record: record.info.kind != KIND_COMMITTED))

    def _idle(self) -> bool:
        """Whether nothing was shown: so close() of a worker does not touch what the daemon has mounted."""
        return not self._has_shown

    def _used(self, wanted: Callable[[Record], bool]) -> set[str]:
        """Paths of the layers below all snapshots that are `wanted`."""
        used: set[str] = set()
        for record in self._entries.walk():
            if wanted(record):
                name = record.info.name if record.info.kind == KIND_COMMITTED else record.info.parent
                used.update(self._paths(name))
        return used


def _look_like(directory: str, model: str) -> None:
    if sys.platform != "win32":
        from wharfie.snapshots import fill

        fill.describe(directory, fill.attributes(model))


def _overlay(lowers: list[str], *rest: str) -> list[Mount]:
    options = (*_OVERLAY, "lowerdir=" + ":".join(lowers), *rest)
    if sum(len(option) + 1 for option in options) > _PAGE_BYTES:
        raise FailedPrecondition(
            f"mount snapshot: {len(lowers)} layers do not fit one mount",
            hint="shorten the path of the state directory, or squash the image",
        )
    return [Mount("overlay", "overlay", options=options)]
