# SPDX-License-Identifier: Apache-2.0
"""The table of snapshots of one snapshotter, on disk: one directory per key or name.

    <dir>/entries/<hash of key>/meta.json    the record; beside it what the snapshotter keeps (fs/, work/)
    <dir>/tmp/                               names in the making and names going away
    <dir>/lock                               short: shared to add, exclusive to take away what others may build on
    <dir>/tmp.lock                           held shared while something in tmp/ is alive, exclusive to sweep it

An entry appears and disappears by one rename.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from wharfie.errdefs import AlreadyExists, DataLoss, NotFound
from wharfie.fsutil import atomic
from wharfie.fsutil.lock import FileLock
from wharfie.snapshots import Info
from wharfie.snapshots.removal import remove_tree

VERSION = 1


class Record(NamedTuple):
    """`diff_id`: the layer of a committed snapshot, "" where it was committed from an active one (its fs/ is the layer)."""

    info: Info
    diff_id: str = ""


class _TornError(DataLoss):
    """A record that was never written out."""


class Entries:
    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._base = os.path.join(directory, "entries")
        self._tmp = os.path.join(directory, "tmp")

    def create(self) -> None:
        """Make the directories where they are missing."""
        for path in (self._base, self._tmp):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def adding(self) -> FileLock:
        return FileLock(os.path.join(self.directory, "lock"), shared=True)

    def taking(self) -> FileLock:
        return FileLock(os.path.join(self.directory, "lock"))

    def working(self) -> FileLock:
        """To hold while names of `temporary()` are in use for long."""
        return FileLock(os.path.join(self.directory, "tmp.lock"), shared=True)

    def temporary(self) -> str:
        """A path below tmp/ that nobody else uses. Nothing is made."""
        return os.path.join(self._tmp, f"{os.getpid():x}-{os.urandom(6).hex()}")

    def path(self, key: str) -> str:
        """Directory of an entry, whether it exists or not. The hash makes any key a short, harmless name."""
        return os.path.join(self._base, hashlib.sha256(key.encode()).hexdigest()[:32])

    def get(self, key: str) -> Record:
        """Raises NotFound."""
        try:
            return _read(self.path(key))
        except FileNotFoundError:
            raise NotFound(f"look up snapshot {key!r}: no such snapshot") from None

    def add(
        self,
        record: Record,
        directories: tuple[str, ...] = (),
        *,
        moved: str | None = None,
        fsync: bool = False,
    ) -> str:
        """Make the entry with empty `directories` in it, out of the directory `moved` where one is given; its path.

        Raises: AlreadyExists; `moved` is gone then too.
        """
        path = self.path(record.info.name)
        part = moved or self.temporary()
        with self.working():
            if moved is None:
                os.mkdir(part, 0o700)
            try:
                for name in directories:
                    os.mkdir(os.path.join(part, name), 0o755)
                write_new(os.path.join(part, "meta.json"), _dump(record), fsync=fsync)
                os.rename(part, path)
            except BaseException as e:
                remove_tree(part)
                if isinstance(e, OSError) and e.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise AlreadyExists(f"create snapshot {record.info.name!r}: the name is taken") from None
                raise
            if fsync:
                atomic.sync_directory(self._base)
        return path

    def rename(self, key: str, record: Record) -> None:
        """The entry `key` becomes `record`, under its name. Raises AlreadyExists."""
        old, new = self.path(key), self.path(record.info.name)
        if os.path.exists(new):
            raise AlreadyExists(f"commit snapshot {record.info.name!r}: the name is taken")
        atomic.write(os.path.join(old, "meta.json"), _dump(record), 0o600, fsync=True)
        self._settle(old, new)

    def _settle(self, old: str, new: str) -> None:
        os.rename(old, new)
        atomic.sync_directory(self._base)

    def remove(self, key: str) -> None:
        """Take the entry away and then its files. Raises NotFound."""
        part = self.temporary()
        with self.working():
            try:
                os.rename(self.path(key), part)
            except FileNotFoundError:
                raise NotFound(f"remove snapshot {key!r}: no such snapshot") from None
            remove_tree(part)

    def walk(self) -> Iterator[Record]:
        for name in os.listdir(self._base):
            try:
                yield _read(os.path.join(self._base, name))
            except FileNotFoundError:
                continue  # removed meanwhile

    def sweep(self) -> None:
        """Finish renames and remove temporary names, if nobody is at work on one; else the next sweep does."""
        with self.taking():
            for name in os.listdir(self._base):
                path = os.path.join(self._base, name)
                try:
                    want = self.path(_read(path).info.name)
                except FileNotFoundError:
                    continue  # removed meanwhile
                except _TornError:
                    # A power cut in the seconds after it was made: active snapshots are not flushed.
                    os.rename(path, self.temporary())
                    continue
                if want != path:
                    self._settle(path, want)
        try:
            with FileLock(os.path.join(self.directory, "tmp.lock"), blocking=False):
                for name in os.listdir(self._tmp):
                    remove_tree(os.path.join(self._tmp, name))
        except BlockingIOError:
            return


def new_info(name: str, kind: str, parent: str | None, labels: dict[str, str] | None) -> Info:
    now = time.time()
    return Info(name, kind, parent, dict(labels or {}), now, now)


def write_new(path: str, data: bytes, *, fsync: bool) -> None:
    """A file that nobody looks for yet; its directory is synced by whoever makes that visible."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, data)
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _dump(record: Record) -> bytes:
    document: dict[str, Any] = {"version": VERSION, **record.info._asdict(), "diff_id": record.diff_id}
    return json.dumps(document).encode()


def _read(path: str) -> Record:
    file = os.path.join(path, "meta.json")
    with open(file, "rb") as f:
        data = f.read()
    try:
        d = json.loads(data)
    except ValueError as e:
        raise _TornError(f"read snapshot {file!r}: {e}") from e
    try:
        if d["version"] != VERSION:
            raise DataLoss(
                f"read snapshot {file!r}: version {d['version']} is unknown",
                hint="a newer wharfie has written this store",
            )
        info = Info(d["name"], d["kind"], d["parent"], d["labels"], d["created_s"], d["updated_s"])
        return Record(info, d["diff_id"])
    except (KeyError, TypeError) as e:
        raise DataLoss(f"read snapshot {file!r}: malformed: {e}") from e
