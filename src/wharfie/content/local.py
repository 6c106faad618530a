# SPDX-License-Identifier: Apache-2.0
"""The content store on a local file system, in OCI image layout.

A blob's bytes are durable before its name is: data is flushed, renamed, and the directory flushed. Several processes
may use one store: an ingest is owned by whoever holds its flock, and a lost race for the lock shows as a data file that
is no longer the one at its path.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
from collections.abc import Iterator

from wharfie.content import BlobInfo, IngestStatus, Writer
from wharfie.errdefs import DataLoss, InvalidArgument, NotFound, OutOfRange, ResourceExhausted, Unavailable
from wharfie.spec.digest import hasher, is_digest, parse_digest, sha256

if sys.platform != "win32":
    import fcntl

CHUNK_BYTES = 1 << 20
_OPEN_FLAGS: int = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_REF_BYTES = 4096


def open_store(root: str) -> LocalStore:
    """Open or create the store at `root` (`<engine root>/content`)."""
    # One by one: makedirs gives its mode to the last directory alone.
    for directory in ("", "blobs", "blobs/sha256", "blobs/sha512", "ingest"):
        os.makedirs(os.path.join(root, directory), mode=0o700, exist_ok=True)
    marker = os.path.join(root, "oci-layout")
    if not os.path.exists(marker):
        part = f"{marker}.{os.getpid()}"
        with open(part, "wb") as f:
            f.write(_LAYOUT)
        os.replace(part, marker)
    return LocalStore(root)


class LocalStore:
    """`content.Store` on a directory. Safe to use from several threads and processes."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._blobs = os.path.join(root, "blobs")
        self._ingest = os.path.join(root, "ingest")

    def path(self, digest: str) -> str:
        path = self._path(digest)
        if not os.path.exists(path):
            raise _no_blob(digest)
        return path

    def has(self, digest: str) -> bool:
        return os.path.exists(self._path(digest))

    def info(self, digest: str) -> BlobInfo:
        try:
            st = os.stat(self._path(digest))
        except FileNotFoundError:
            raise _no_blob(digest) from None
        return BlobInfo(digest, st.st_size, st.st_mtime)

    def open(self, digest: str) -> int:
        try:
            return os.open(self._path(digest), os.O_RDONLY | _OPEN_FLAGS)
        except FileNotFoundError:
            raise _no_blob(digest) from None

    def read(self, digest: str, *, max_bytes: int) -> bytes:
        fd = self.open(digest)
        with os.fdopen(fd, "rb", buffering=0) as f:
            if os.fstat(fd).st_size > max_bytes:
                raise ResourceExhausted(f"read blob {digest}: it is larger than {max_bytes} bytes")
            data = f.readall() or b""
        h = hasher(digest)
        h.update(data)
        if not digest.endswith(h.hexdigest()):
            raise DataLoss(
                f"read blob {digest}: the bytes on disk have another digest",
                hint="the disk lost data: remove the image and pull it again",
            )
        return data

    def put(self, data: bytes, digest: str | None = None) -> str:
        actual = sha256(data)
        if digest is not None and digest != actual:
            h = hasher(digest)
            h.update(data)
            if not digest.endswith(h.hexdigest()):
                raise DataLoss(f"store blob {digest}: its bytes have the digest {actual}")
            actual = parse_digest(digest)
        if self.has(actual):
            return actual
        part = os.path.join(self._ingest, f".put-{os.getpid()}-{os.urandom(8).hex()}")
        try:
            with open(part, "xb", buffering=0) as f:
                _write_all(f.fileno(), data)
                _flush(f.fileno())
            self._publish(part, actual)
        except OSError as e:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
            raise _disk_error(f"store blob {actual}", e) from e
        return actual

    def writer(self, ref: str, *, total_bytes: int = 0, digest: str | None = None) -> Writer:
        directory = self._ingest_dir(ref)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            fd = _open_locked(os.path.join(directory, "data"), ref)
            try:
                _write_small(os.path.join(directory, "ref"), ref.encode())
                _write_small(os.path.join(directory, "total"), str(total_bytes).encode())
                return LocalWriter(self, ref, directory, fd, total_bytes=total_bytes, digest=digest)
            except BaseException:
                os.close(fd)
                raise
        except OSError as e:
            raise _disk_error(f"open ingest {ref!r}", e) from e

    def delete(self, digest: str) -> None:
        try:
            os.unlink(self._path(digest))
        except FileNotFoundError:
            raise _no_blob(digest) from None

    def walk(self) -> Iterator[BlobInfo]:
        for algorithm in ("sha256", "sha512"):
            with os.scandir(os.path.join(self._blobs, algorithm)) as entries:
                for entry in entries:
                    digest = f"{algorithm}:{entry.name}"
                    if not is_digest(digest):
                        continue
                    try:
                        st = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    yield BlobInfo(digest, st.st_size, st.st_mtime)

    def ingests(self) -> Iterator[IngestStatus]:
        for name in os.listdir(self._ingest):
            directory = os.path.join(self._ingest, name)
            try:
                with open(os.path.join(directory, "ref"), "rb") as f:
                    ref = f.read(_REF_BYTES).decode()
                with open(os.path.join(directory, "total"), "rb") as f:
                    total = int(f.read(32) or b"0")
                st = os.stat(os.path.join(directory, "data"))
                started_s = os.stat(os.path.join(directory, "ref")).st_mtime
            except (FileNotFoundError, NotADirectoryError, ValueError):
                continue
            yield IngestStatus(ref, st.st_size, total, started_s)

    def abort(self, ref: str) -> None:
        directory = self._ingest_dir(ref)
        if not os.path.exists(os.path.join(directory, "data")):
            raise NotFound(f"abort ingest {ref!r}: there is none")
        fd = _open_locked(os.path.join(directory, "data"), ref)
        self._drop(directory)
        os.close(fd)

    def cleanup(self) -> None:
        """Remove what a kill left half made: small blobs not yet renamed, ingests without a name. For the start only."""
        for name in os.listdir(self._ingest):
            path = os.path.join(self._ingest, name)
            if name.startswith(".put-"):
                os.unlink(path)
            elif not os.path.exists(os.path.join(path, "ref")):
                self._drop(path)

    def _path(self, digest: str) -> str:
        algorithm, _, encoded = parse_digest(digest).partition(":")
        return os.path.join(self._blobs, algorithm, encoded)

    def _ingest_dir(self, ref: str) -> str:
        if not ref or len(ref.encode()) > _REF_BYTES:
            raise InvalidArgument(f"open ingest {ref[:80]!r}: a ref has 1 to {_REF_BYTES} bytes")
        return os.path.join(self._ingest, hashlib.sha256(ref.encode()).hexdigest())

    def _publish(self, part: str, digest: str) -> None:
        target = self._path(digest)
        os.rename(part, target)
        _flush_directory(os.path.dirname(target))

    @staticmethod
    def _drop(directory: str) -> None:
        """Remove an ingest whose lock is held. `data` goes last: once it is gone the next writer may begin."""
        for name in ("total", "ref", "data"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
        with contextlib.suppress(OSError):  # a new writer may be making it again already
            os.rmdir(directory)


class LocalWriter:
    """`content.Writer`. The hash follows the file lazily, so that a resumed ingest is read once, by replay or by write."""

    def __init__(
        self, store: LocalStore, ref: str, directory: str, fd: int, *, total_bytes: int, digest: str | None
    ) -> None:
        self.ref = ref
        self.offset = os.fstat(fd).st_size
        self._store = store
        self._directory = directory
        self._fd = fd
        self._hash = hasher(digest) if digest else hashlib.sha256()
        self._hashed = 0
        if total_bytes and self.offset > total_bytes:
            self.truncate()

    def write(self, data: bytes | memoryview) -> int:
        for _ in self._catch_up():
            pass
        try:
            _write_all(self._fd, data, self.offset)
        except OSError as e:
            raise _disk_error(f"write ingest {self.ref!r}", e) from e
        self._hash.update(data)
        self.offset += len(data)
        self._hashed = self.offset
        return len(data)

    def replay(self) -> Iterator[bytes]:
        if self._hashed:
            raise InvalidArgument(f"replay ingest {self.ref!r}: it has been written to already")
        return self._catch_up()

    def digest(self) -> str:
        for _ in self._catch_up():
            pass
        return f"{self._hash.name}:{self._hash.hexdigest()}"

    def truncate(self) -> None:
        os.ftruncate(self._fd, 0)
        self.offset = self._hashed = 0
        self._hash = hashlib.new(self._hash.name)

    def commit(self, size_bytes: int, digest: str) -> None:
        for _ in self._catch_up():
            pass
        if self.offset < size_bytes:
            raise OutOfRange(f"commit ingest {self.ref!r}: {self.offset} of {size_bytes} bytes are there")
        if self.offset > size_bytes:
            self.discard()
            raise DataLoss(f"commit ingest {self.ref!r}: {self.offset} bytes are more than the {size_bytes} announced")
        algorithm, _, encoded = parse_digest(digest).partition(":")
        if algorithm != self._hash.name:
            self._rehash(algorithm)
        if self._hash.hexdigest() != encoded:
            actual = f"{algorithm}:{self._hash.hexdigest()}"
            self.discard()
            raise DataLoss(f"commit blob {digest}: the bytes received have the digest {actual}")
        try:
            if not self._store.has(digest):
                self._move(digest)
        except OSError as e:
            raise _disk_error(f"commit blob {digest}", e) from e
        self.discard()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        """Remove the ingest and let go of it, in this order: nobody may take up what is about to vanish."""
        if self._fd < 0:
            return
        self._store._drop(self._directory)
        self.close()

    def _move(self, digest: str) -> None:
        _flush(self._fd)
        for name in ("total", "ref"):  # before data moves: after that, these names may be the next writer's
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._directory, name))
        if sys.platform == "win32":  # an open file cannot be renamed there
            self.close()
        self._store._publish(os.path.join(self._directory, "data"), digest)
        with contextlib.suppress(OSError):
            os.rmdir(self._directory)
        self.close()

    def _rehash(self, algorithm: str) -> None:
        self._hash = hashlib.new(algorithm)
        self._hashed = 0
        for _ in self._catch_up():
            pass

    def _catch_up(self) -> Iterator[bytes]:
        while self._hashed < self.offset:
            os.lseek(self._fd, self._hashed, os.SEEK_SET)
            chunk = os.read(self._fd, min(CHUNK_BYTES, self.offset - self._hashed))
            if not chunk:
                raise DataLoss(f"read ingest {self.ref!r}: its file shrank")
            self._hash.update(chunk)
            self._hashed += len(chunk)
            yield chunk


def _open_locked(path: str, ref: str) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _OPEN_FLAGS, 0o600)
        try:
            _lock(fd)
            st = os.fstat(fd)
            now = os.stat(path)
            if (st.st_dev, st.st_ino) == (now.st_dev, now.st_ino):
                return fd
        except FileNotFoundError:  # committed or aborted between open and lock; the directory may be gone as well
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        except BlockingIOError:
            os.close(fd)
            raise Unavailable(f"open ingest {ref!r}: another download is writing it") from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock(fd: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        try:
            os.lseek(fd, 1 << 62, os.SEEK_SET)  # a byte that no data reaches: locks are mandatory there
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except PermissionError as e:
            raise BlockingIOError(errno.EAGAIN, "lock") from e
    else:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write_all(fd: int, data: bytes | memoryview, offset: int = 0) -> None:
    view = memoryview(data)
    os.lseek(fd, offset, os.SEEK_SET)
    while view:
        view = view[os.write(fd, view) :]


def _write_small(path: str, data: bytes) -> None:
    """Write a file that only describes an ingest; the ingest is useful without it after a power cut."""
    if not os.path.exists(path):
        part = f"{path}.part"
        with open(part, "wb") as f:
            f.write(data)
        os.replace(part, path)


def _flush(fd: int) -> None:
    if sys.platform == "win32":
        os.fsync(fd)
    else:
        os.fdatasync(fd)


def _flush_directory(path: str) -> None:
    if sys.platform == "win32":  # NTFS journals names itself
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _OPEN_FLAGS)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _no_blob(digest: str) -> NotFound:
    return NotFound(f"open blob {digest}: it is not in the content store", digest=digest)


def _disk_error(operation: str, error: OSError) -> Exception:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ResourceExhausted(
            f"{operation}: {os.strerror(error.errno or 0).lower()}",
            hint="free some space on the disk of the engine's root, or: wharfie image prune",
        )
    return error
