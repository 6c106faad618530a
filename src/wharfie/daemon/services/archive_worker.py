# SPDX-License-Identifier: Apache-2.0
"""cp and export, in a worker process each: entries `archive-stat`, `archive-get`, `archive-put`, `archive-export`.

Everything is imported at the head of this module and of what it imports; what is loaded late (a decompressor) is loaded
and fed before the container is entered. Arguments are JSON; `where` says how to get at the files (`archive_root`).
"""

from __future__ import annotations

import base64
import bz2
import errno
import json
import lzma
import os
import posixpath
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec

from wharfie.archive.compression import OUTPUT_BYTES, detect, inflate
from wharfie.archive.scan import Scanner
from wharfie.daemon.services.archive_pack import Packer
from wharfie.daemon.services.archive_root import Root, Where, enter, refused
from wharfie.daemon.services.archive_unpack import Options, Unpacker
from wharfie.errdefs import DataLoss, InvalidArgument

if sys.platform == "win32":
    raise ImportError("archive workers are Linux processes")

_READ_BYTES = 256 << 10
# Bits of Go's os.FileMode, which the header X-Docker-Container-Path-Stat carries.
_GO_KIND = {
    stat.S_IFDIR: 1 << 31, stat.S_IFLNK: 1 << 27, stat.S_IFBLK: 1 << 26, stat.S_IFIFO: 1 << 25, stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21, stat.S_IFREG: 0,
}  # fmt: skip


class Request(msgspec.Struct):
    """`path` as the client gave it, with its trailing slash or dot. `owner`, `keep_kinds`: of put."""

    where: Where
    path: str = "/"
    owner: tuple[int, int] | None = None
    keep_kinds: bool = False


_decode = msgspec.json.Decoder(Request).decode


def normal(path: str) -> str:
    """Absolute and clean, where a trailing "/" or "/." of `path` stays."""
    clean = posixpath.normpath(posixpath.join("/", path))
    if path.endswith("/.") or path == ".":
        return clean.rstrip("/") + "/."
    if path.endswith("/") and clean != "/":
        return clean + "/"
    return clean.replace("//", "/")


def go_mode(mode: int) -> int:
    special = (mode & stat.S_ISUID and 1 << 23) | (mode & stat.S_ISGID and 1 << 22) | (mode & stat.S_ISVTX and 1 << 20)
    return _GO_KIND.get(stat.S_IFMT(mode), 0) | special | (mode & 0o777)


def _look(root: Root, path: str) -> tuple[int, bytes]:
    """O_PATH descriptor of `path`, a last link not followed, and its stat as Docker's base64 header."""
    follow = path.endswith(("/", "/."))
    fd = root.open(path, os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW)
    found = os.fstat(fd)
    target = ""
    if stat.S_ISLNK(found.st_mode):
        target = _resolved(root, path, os.fsdecode(os.readlink(b"", dir_fd=fd)))
    document = {
        "name": posixpath.basename(path.rstrip("/")) or "/",
        "size": found.st_size,
        "mode": go_mode(found.st_mode),
        "mtime": _rfc3339(found.st_mtime_ns),
        "linkTarget": target,
    }
    return fd, base64.b64encode(json.dumps(document).encode())


def _resolved(root: Root, path: str, link: str) -> str:
    """Where a link ends in the container, as far as it can be followed without asking the kernel for names."""
    current = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    for _ in range(40):
        try:
            fd = root.open(current, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return current
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                return current
            link = os.fsdecode(os.readlink(b"", dir_fd=fd))
        finally:
            os.close(fd)
        current = posixpath.normpath(posixpath.join(posixpath.dirname(current), link))
    return current


def _rfc3339(stamp_ns: int) -> str:
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    when = time.gmtime(seconds)
    fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    return f"{when[0]:04d}-{when[1]:02d}-{when[2]:02d}T{when[3]:02d}:{when[4]:02d}:{when[5]:02d}{fraction}Z"


def stat_path(args: bytes, fds: Sequence[int]) -> bytes:
    """HEAD: the stat header's value."""
    request = _decode(args)
    path = normal(request.path)
    root = enter(request.where, fds)
    try:
        return _look(root, path)[1]
    except OSError as e:
        raise refused("stat container path", path, e) from e


def get(args: bytes, fds: Sequence[int]) -> bytes:
    """GET: the last descriptor takes the stat header's value, a newline, and the tar. JSON of what was skipped."""
    request = _decode(args)
    path = normal(request.path)
    out = fds[-1]
    root = enter(request.where, fds)
    try:
        fd, header = _look(root, path)
    except OSError as e:
        raise refused("copy from container", path, e) from e
    os.write(out, header + b"\n")
    packer = Packer(root, out)
    base = posixpath.basename(path.rstrip("/"))
    try:
        # Of `/` the members are called "/x", of "dir/." they are "./x": what clients then rename.
        packer.add_tree(fd, os.fsencode(base) if path != "/" else b"/")
        packer.finish()
    except BrokenPipeError:
        return b""  # the client has gone
    except OSError as e:
        raise refused("copy from container", path, e) from e
    return json.dumps(packer.skipped).encode()


def export(args: bytes, fds: Sequence[int]) -> bytes:
    """The root file system, as a tar to the last descriptor. JSON of what was skipped."""
    request = _decode(args)
    root = enter(request.where, fds)
    packer = Packer(root, fds[-1])
    try:
        top = root.open("/", os.O_RDONLY | os.O_DIRECTORY)
        for name in sorted(os.listdir(top)):
            packer.add(top, name, os.fsencode(name))
        packer.finish()
    except BrokenPipeError:
        return b""
    return json.dumps(packer.skipped).encode()


class _Stream:
    """A descriptor as a stream, its first bytes looked at."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.head = b""
        while len(self.head) < 6 and (more := os.read(fd, _READ_BYTES)):
            self.head += more
        self._pending = self.head

    def read(self, n: int = -1, /) -> bytes:
        if self._pending:
            data, self._pending = self._pending[:n], self._pending[n:]
            return data
        return os.read(self._fd, n)


def _python_inflate(stream: _Stream, decoder: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> Iterator[bytes]:
    try:
        while not decoder.eof:
            data = stream.read(_READ_BYTES) if decoder.needs_input else b""
            if decoder.needs_input and not data:
                raise DataLoss("inflate: truncated")
            chunk = decoder.decompress(data, OUTPUT_BYTES)
            if chunk:
                yield chunk
    except (OSError, lzma.LZMAError) as e:
        raise DataLoss(f"inflate: {e}") from e
    if decoder.unused_data.strip(b"\0"):
        raise DataLoss("inflate: trailing rubbish")


def _chunks(fd: int) -> Iterator[bytes]:
    """The plain tar of a stream in any of the compressions that Docker takes, by our own decoders."""
    stream = _Stream(fd)
    if stream.head.startswith(b"BZh"):
        return _python_inflate(stream, bz2.BZ2Decompressor())
    if stream.head.startswith(b"\xfd7zXZ\0"):
        return _python_inflate(stream, lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20))
    return inflate(stream, detect(stream.head) or "none")


def put(args: bytes, fds: Sequence[int]) -> bytes:
    """PUT: unpack the tar that the last descriptor gives into the directory `path`."""
    request = _decode(args)
    path = normal(request.path)
    try:
        chunks = _chunks(fds[-1])
        first = next(chunks, b"")
    except DataLoss as e:
        raise InvalidArgument(f"copy to container: read archive: {e}") from e
    root = enter(request.where, fds)
    try:
        os.close(root.open(path, os.O_PATH | os.O_DIRECTORY))
    except NotADirectoryError as e:
        raise InvalidArgument(f"copy to container: extraction point is not a directory: {path!r}") from e
    except OSError as e:
        raise refused("copy to container", path, e) from e
    unpacker = Unpacker(root, path.removesuffix("/.") or "/", Options(request.owner, request.keep_kinds))
    try:
        unpacker.run(Scanner(chain((first,), chunks) if first else ()))
    except DataLoss as e:
        raise InvalidArgument(f"copy to container: read archive: {e}") from e
    except OSError as e:
        if e.errno == errno.ENOENT:
            raise InvalidArgument(f"copy to container: {e.strerror}: {e.filename!r}") from e
        raise refused("copy to container", path, e) from e
    return b""
