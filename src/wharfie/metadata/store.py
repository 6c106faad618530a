# SPDX-License-Identifier: Apache-2.0
"""The database file: opening, migrations, one writer thread, readers everywhere.

Writes are functions of a connection. The writer thread takes all that wait, runs each in a savepoint of one transaction
and commits once, so that twenty parallel `run`s cost one commit. A write that raises undoes only itself.

A commit that is not `durable` waits for no disk; a second thread syncs the log behind it, so that a power cut loses a
second or two of such writes at most.
"""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from wharfie.errdefs import DataLoss, FailedPrecondition, Internal, ResourceExhausted, WharfieError

T = TypeVar("T")
_log = logging.getLogger(__name__)

SYNC_DELAY_S = 1.0

_PRAGMAS = ("journal_mode=WAL", "busy_timeout=10000", "foreign_keys=ON", "temp_store=MEMORY", "cache_size=-1024")

_CORE = (
    """
    CREATE TABLE images (
        ns TEXT NOT NULL, name TEXT NOT NULL, target BLOB NOT NULL, digest TEXT NOT NULL, labels BLOB NOT NULL,
        created_s REAL NOT NULL, updated_s REAL NOT NULL, PRIMARY KEY (ns, name)
    ) WITHOUT ROWID;
    CREATE INDEX images_digest ON images (ns, digest);
    CREATE TABLE containers (
        ns TEXT NOT NULL, id TEXT NOT NULL, name TEXT, image TEXT NOT NULL, runtime TEXT NOT NULL, spec BLOB,
        snapshotter TEXT NOT NULL, snapshot_key TEXT NOT NULL, labels BLOB NOT NULL, extensions BLOB NOT NULL,
        state BLOB, created_s REAL NOT NULL, updated_s REAL NOT NULL, PRIMARY KEY (ns, id)
    );
    CREATE UNIQUE INDEX containers_name ON containers (ns, name) WHERE name IS NOT NULL;
    CREATE TABLE leases (
        ns TEXT NOT NULL, id TEXT NOT NULL, labels BLOB NOT NULL, created_s REAL NOT NULL, expires_s REAL,
        PRIMARY KEY (ns, id)
    ) WITHOUT ROWID;
    CREATE TABLE refs (
        ns TEXT NOT NULL, from_kind TEXT NOT NULL, from_id TEXT NOT NULL, to_kind TEXT NOT NULL, to_id TEXT NOT NULL,
        PRIMARY KEY (ns, from_kind, from_id, to_kind, to_id)
    ) WITHOUT ROWID;
    CREATE INDEX refs_to ON refs (to_kind, to_id);
    """,
)


class _Job(NamedTuple):
    run: Callable[[sqlite3.Connection], Any]
    durable: bool
    future: Future[Any]


class Store:
    """The database. `register` tables, `open`, then `write` and `read` from any thread, `close`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._components: dict[str, tuple[str, ...]] = {"core": _CORE}
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._readers = threading.local()
        self._reader_list: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._unsynced = threading.Event()
        self._closing = threading.Event()
        self._syncer: threading.Thread | None = None

    def register(self, component: str, migrations: Sequence[str]) -> None:
        """Add tables: `migrations[n]` is a script that brings `component` from version n to n+1. Before `open`."""
        if self._thread is not None:
            raise Internal(f"register tables of {component!r}: the store is open")
        self._components[component] = tuple(migrations)

    def open(self) -> None:
        """Create or upgrade the file. Raises FailedPrecondition (made by a newer version), DataLoss, ResourceExhausted."""
        os.makedirs(os.path.dirname(self.path), mode=0o710, exist_ok=True)
        try:
            db = self._connect()
            os.chmod(self.path, 0o600)
            self._migrate(db)
        except sqlite3.Error as e:
            raise _translated(self.path, e) from e
        self._thread = threading.Thread(target=self._writer, args=(db,), name="metadata", daemon=True)
        self._thread.start()
        self._closing.clear()
        self._syncer = threading.Thread(target=self._sync_behind, name="metadata-sync", daemon=True)
        self._syncer.start()

    def close(self) -> None:
        """Finish what was submitted and let go of the file."""
        if self._thread is None:
            return
        self._jobs.put(None)
        self._thread.join()
        self._thread = None
        self._closing.set()
        self._unsynced.set()
        if self._syncer is not None:
            self._syncer.join()
            self._syncer = None
        with self._lock:
            for db in self._reader_list:
                db.close()
            self._reader_list.clear()
        self._readers = threading.local()

    def submit(self, fn: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> Future[T]:
        """Run `fn(connection)` in a transaction, soon, in order. The future is done once it is committed.

        `durable`: on the disk by then (fsync), for what must survive a power cut; else a crash of the machine may lose
        it, a crash of the process not. `fn` must only use the connection, and must not commit.
        """
        future: Future[T] = Future()
        if self._thread is None:
            raise Internal(f"write {self.path!r}: the store is closed")
        self._jobs.put(_Job(fn, durable, future))
        return future

    def write(self, fn: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        """`submit` and wait."""
        return self.submit(fn, durable=durable).result()

    def reader(self) -> sqlite3.Connection:
        """The calling thread's read-only connection: every statement sees the last commit. Don't close it."""
        db: sqlite3.Connection | None = getattr(self._readers, "db", None)
        if db is None:
            try:
                db = self._connect()
                db.execute("PRAGMA query_only=ON")
            except sqlite3.Error as e:
                raise _translated(self.path, e) from e
            self._readers.db = db
            with self._lock:
                self._reader_list.append(db)
        return db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        for pragma in _PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
        return db

    def _migrate(self, db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE IF NOT EXISTS components (name TEXT PRIMARY KEY, version INTEGER NOT NULL)")
        have: dict[str, int] = dict(db.execute("SELECT name, version FROM components"))
        for name, migrations in self._components.items():
            version = have.get(name, 0)
            if version > len(migrations):
                raise FailedPrecondition(
                    f"open {self.path!r}: its {name!r} tables have version {version}, this wharfied knows {len(migrations)}",
                    hint="run the newer wharfied that made it, or use another --root",
                )
            for n in range(version, len(migrations)):
                # One script, one transaction: a kill in between leaves the old version whole.
                db.executescript(
                    f"BEGIN IMMEDIATE; {migrations[n]};"  # noqa: S608
                    f"INSERT OR REPLACE INTO components VALUES ('{name}', {n + 1}); COMMIT;"
                )

    def _writer(self, db: sqlite3.Connection) -> None:
        stop = False
        synchronous = ""
        while not stop:
            jobs: list[_Job] = []
            job = self._jobs.get()
            while True:
                if job is None:
                    stop = True
                    break
                jobs.append(job)
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if not jobs:
                break
            wanted = "FULL" if any(j.durable for j in jobs) else "NORMAL"
            if wanted != synchronous:
                db.execute(f"PRAGMA synchronous={wanted}")
                synchronous = wanted
            self._transaction(db, jobs)
            if wanted == "NORMAL":
                self._unsynced.set()
        db.close()

    def _sync_behind(self) -> None:
        """Sync the write-ahead log, a moment after a commit that did not do it."""
        while True:
            self._unsynced.wait()
            if self._closing.wait(SYNC_DELAY_S):
                return  # closing the last connection checkpoints, and syncs
            self._unsynced.clear()
            try:
                fd = os.open(f"{self.path}-wal", os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
            except FileNotFoundError:
                continue
            try:
                os.fsync(fd)
            except OSError as e:
                _log.error("sync %r: %s", self.path, e)
            finally:
                os.close(fd)

    def _transaction(self, db: sqlite3.Connection, jobs: list[_Job]) -> None:
        results: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            db.execute("BEGIN IMMEDIATE")
            for job in jobs:
                if not job.future.set_running_or_notify_cancel():
                    continue
                if len(jobs) > 1:
                    db.execute("SAVEPOINT job")
                try:
                    results.append((job.future, job.run(db), None))
                    if len(jobs) > 1:
                        db.execute("RELEASE job")
                except Exception as e:
                    if len(jobs) > 1:
                        db.execute("ROLLBACK TO job")
                        db.execute("RELEASE job")
                    else:
                        db.execute("ROLLBACK")
                    results.append((job.future, None, _translated(self.path, e) if isinstance(e, sqlite3.Error) else e))
            if db.in_transaction:
                db.execute("COMMIT")
        except sqlite3.Error as e:
            if db.in_transaction:
                db.execute("ROLLBACK")
            error = _translated(self.path, e)
            for job in jobs:
                if not job.future.done() and not job.future.cancelled():
                    job.future.set_exception(error)
            return
        for future, value, failure in results:
            if failure is None:
                future.set_result(value)
            else:
                future.set_exception(failure)


def _translated(path: str, e: sqlite3.Error) -> WharfieError:
    text = str(e)
    if isinstance(e, sqlite3.OperationalError) and ("full" in text or "disk I/O" in text):
        return ResourceExhausted(f"write {path!r}: {text}", hint="make room on the disk that holds the engine's root")
    if isinstance(e, sqlite3.DatabaseError) and ("malformed" in text or "not a database" in text):
        return DataLoss(f"open {path!r}: {text}", hint="restore the file, or move it away: images can be pulled again")
    return Internal(f"use {path!r}: {text}")
