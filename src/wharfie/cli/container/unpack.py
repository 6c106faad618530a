# SPDX-License-Identifier: Apache-2.0
"""Archives of `cp`, both ways. A container's content is hostile: no entry may land outside of where the user said.

Entries are placed by walking directory descriptors without following links (CVE-2019-14271, CVE-2018-15664 and their
kin), so a link in the archive, or one that is there already, can't lead out.
"""

from __future__ import annotations

import os
import sys
import tarfile

from wharfie.errdefs import DataLoss

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _FLAGS


class _Stream:
    """The file that tarfile reads: chunks as they come."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._data = b""

    def read(self, count: int) -> bytes:
        parts, need = [], count
        while need:
            if not self._data:
                following = next(self._chunks, None)
                if following is None:
                    break
                self._data = following
                continue
            part = self._data[:need]
            self._data = self._data[len(part) :]
            need -= len(part)
            parts.append(part)
        return b"".join(parts)


def unpack(chunks: Iterable[bytes], where: str, *, top: str, name: str, owners: bool) -> int:
    """Into the directory `where`, the archive's first component `top` replaced by `name` ("" drops it); bytes written."""
    root = os.open(where, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    count = 0
    late: list[tuple[list[str], tarfile.TarInfo]] = []
    try:
        with tarfile.open(fileobj=_Stream(chunks), mode="r|") as archive:  # type: ignore[call-overload]
            for member in archive:
                parts = _placed(member.name, top, name)
                if member.isdir():
                    late.append((parts, member))
                if parts:
                    linked = _placed(member.linkname, top, name) if member.islnk() else []
                    count += _entry(root, parts, member, archive, linked)
                    if member.isreg():
                        _finish_below(root, parts, member, owners=owners)
        for parts, member in reversed(late):  # times of directories change while they are filled
            if parts:
                _finish_below(root, parts, member, owners=owners)
    except tarfile.TarError as e:
        raise DataLoss(f"cp: read the container's archive: {e}") from e
    finally:
        os.close(root)
    return count


def _placed(path: str, top: str, name: str) -> list[str]:
    parts = [p for p in path.split("/") if p not in ("", ".")]
    if ".." in parts:
        raise DataLoss(f"cp: the container's archive has an entry `{path}` that leads out of it")
    if parts and parts[0] == top:
        parts = parts[1:]
    return [name, *parts] if name else parts


def _walk(root: int, parts: list[str]) -> int:
    """A descriptor of the directory; missing ones are made, links are refused."""
    current = os.dup(root)
    for part in parts:
        try:
            try:
                following = os.open(part, _DIRECTORY, dir_fd=current)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=current)
                following = os.open(part, _DIRECTORY, dir_fd=current)
        finally:
            os.close(current)
        current = following
    return current


def _finish_below(root: int, parts: list[str], member: tarfile.TarInfo, *, owners: bool) -> None:
    parent = _walk(root, parts[:-1])
    try:
        _finish(parent, parts[-1], member, owners=owners)
    finally:
        os.close(parent)


def _entry(root: int, parts: list[str], member: tarfile.TarInfo, archive: tarfile.TarFile, linked: list[str]) -> int:
    if member.isdir():
        os.close(_walk(root, parts))
        return 0
    parent = _walk(root, parts[:-1])
    leaf = parts[-1]
    try:
        try:
            os.unlink(leaf, dir_fd=parent)
        except FileNotFoundError:
            pass
        if member.issym():
            os.symlink(member.linkname, leaf, dir_fd=parent)
            return 0
        if member.islnk():
            there = _walk(root, linked[:-1])
            try:
                os.link(linked[-1], leaf, src_dir_fd=there, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(there)
            return 0
        if member.isfifo() and sys.platform != "win32":
            os.mkfifo(leaf, member.mode & 0o777, dir_fd=parent)
            return 0
        if not member.isreg():
            return 0  # devices and sockets are no files to copy
        return _file(parent, leaf, member, archive)
    finally:
        os.close(parent)


def _file(parent: int, leaf: str, member: tarfile.TarInfo, archive: tarfile.TarFile) -> int:
    source = archive.extractfile(member)
    assert source
    fd = os.open(leaf, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600, dir_fd=parent)
    with open(fd, "wb") as target:
        while data := source.read(1 << 20):
            target.write(data)
    return member.size


def _finish(parent: int, leaf: str, member: tarfile.TarInfo, *, owners: bool) -> None:
    if sys.platform == "win32":
        return
    fd = os.open(leaf, os.O_RDONLY | _FLAGS, dir_fd=parent)
    try:
        if owners:
            os.fchown(fd, member.uid, member.gid)
        os.fchmod(fd, member.mode & 0o7777 if owners else member.mode & 0o777)
        os.utime(fd, (member.mtime, member.mtime))
    finally:
        os.close(fd)


class _Sink:
    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self.parts)
        self.parts.clear()
        return data


def pack(path: str, name: str, counted: list[int]) -> Iterator[bytes]:
    """`path` and all below as a tar archive whose top is `name`, while it is read."""
    sink = _Sink()
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as archive:  # type: ignore[call-overload]
        yield from _tree(archive, sink, path, name, counted)
    yield sink.take()


def _tree(archive: tarfile.TarFile, sink: _Sink, path: str, name: str, counted: list[int]) -> Iterator[bytes]:
    info = archive.gettarinfo(path, name)
    if info is None:  # a socket
        return
    if info.isreg():
        with open(path, "rb") as f:
            counted[0] += info.size
            archive.addfile(info)
            yield sink.take()
            stream = archive.fileobj
            assert stream
            left = info.size
            while left:
                data = f.read(min(left, 1 << 20))
                if not data:
                    raise DataLoss(f"cp: `{path}` shrank while it was read")
                stream.write(data)
                left -= len(data)
                yield sink.take()
            if rest := info.size % tarfile.BLOCKSIZE:
                stream.write(b"\0" * (tarfile.BLOCKSIZE - rest))
            archive.offset += info.size + (-info.size) % tarfile.BLOCKSIZE
        return
    archive.addfile(info)
    if info.isdir():
        for entry in sorted(os.listdir(path)):
            yield from _tree(archive, sink, os.path.join(path, entry), f"{name}/{entry}", counted)
