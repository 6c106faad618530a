# SPDX-License-Identifier: Apache-2.0
"""What volumes need done outside the daemon: mounting them, and filling them from an image.

Entries of worker processes: `(args, fds) -> bytes`. The image's tree is opened as a detached mount and walked beneath its
root (CVE-2022-23648); the volume's side is written by descriptors and single names, so that a container which has the
volume too cannot redirect a write.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence

import msgspec

from wharfie.daemon.services.archive_unpack import remove
from wharfie.errdefs import FailedPrecondition, ResourceExhausted
from wharfie.fsutil.beneath import open_in_root
from wharfie.mount import Mount
from wharfie.mount.detached import open_tree

if sys.platform == "win32":
    raise ImportError("volume workers are Linux processes")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _CopyUp(msgspec.Struct):
    rootfs: list[Mount]
    jobs: list[tuple[str, str, bool]]


def mount(args: bytes, _fds: Sequence[int]) -> bytes:
    """Mount what JSON [volume, target, fs_type, device, flags, data] says."""
    from wharfie.linux import mountapi

    volume, target, fs_type, device, flags, data = msgspec.json.decode(args, type=tuple[str, str, str, str, int, str])
    try:
        mountapi.mount(device, target, fs_type, flags, data)
    except OSError as e:
        raise FailedPrecondition(
            f"mount volume {volume!r}: mount {device!r} type {fs_type!r} options {data!r}: {e.strerror}",
            hint="the volume's options say what is mounted: `volume inspect` shows them",
        ) from e
    return b""


def unmount(args: bytes, _fds: Sequence[int]) -> bytes:
    """Take it away again, of JSON [volume, target]."""
    from wharfie.mount import attached

    volume, target = msgspec.json.decode(args, type=tuple[str, str])
    try:
        attached.unmount(target)
    except OSError as e:
        raise FailedPrecondition(f"unmount volume {volume!r}: umount {target!r}: {e.strerror}") from e
    return b""


def copy_up(args: bytes, _fds: Sequence[int]) -> bytes:
    """Fill volume directories from an image's tree. {"rootfs": [Mount], "jobs": [[path in it, directory, alone]]}."""
    request = msgspec.json.decode(args, type=_CopyUp)
    os.umask(0)
    root = open_tree(request.rootfs, read_only=True, idmap=False)
    try:
        for target, directory, alone in request.jobs:
            try:
                _fill(root, target, directory, alone=alone)
            except OSError as e:
                raise _failed(directory, e) from e
    finally:
        os.close(root)
    return b""


def _failed(directory: str, e: OSError) -> Exception:
    text = f"fill volume directory {directory!r} from the image: {e.strerror}"
    if e.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ResourceExhausted(text, hint="make room on the disk that holds the volumes, or mount it with nocopy")
    return OSError(e.errno, text, e.filename)


def _fill(root: int, target: str, directory: str, *, alone: bool) -> None:
    try:
        source = open_in_root(root, target, _DIRECTORY & ~os.O_NOFOLLOW)
    except OSError as e:
        if e.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return  # the image has no such directory: the volume stays as it is
        raise
    try:
        if alone:
            _fill_beside(source, directory)
        else:
            destination = os.open(directory, _DIRECTORY)
            try:
                _copy_tree(source, destination, {})
                _copy_attributes(source, destination)
            finally:
                os.close(destination)
    finally:
        os.close(source)


def _fill_beside(source: int, directory: str) -> None:
    """Copy into a directory beside, then take the place of the empty one: a kill leaves it empty, never half full."""
    parent, name = os.path.split(directory)
    temporary = f"{name}.fill"
    at = os.open(parent, _DIRECTORY)
    try:
        remove(at, temporary)
        os.mkdir(temporary, 0o700, dir_fd=at)
        destination = os.open(temporary, _DIRECTORY, dir_fd=at)
        try:
            _copy_tree(source, destination, {})
            _copy_attributes(source, destination)
        finally:
            os.close(destination)
        os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        remove(at, temporary)
        raise
    finally:
        os.close(at)


def _copy_tree(source: int, destination: int, names: dict[tuple[int, int], int]) -> None:
    """Everything below `source`. `names`: files with several names, inode -> a descriptor of the copy."""
    top = not names
    names.setdefault((0, 0), -1)
    try:
        with os.scandir(source) as entries:
            for entry in entries:
                _copy_entry(source, destination, entry.name, names)
    finally:
        if top:
            for fd in names.values():
                if fd >= 0:
                    os.close(fd)


def _copy_entry(source: int, destination: int, name: str, names: dict[tuple[int, int], int]) -> None:
    found = os.stat(name, dir_fd=source, follow_symlinks=False)
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=destination)
        a = os.open(name, _DIRECTORY, dir_fd=source)
        b = os.open(name, _DIRECTORY, dir_fd=destination)
        try:
            _copy_tree(a, b, names)
            _copy_attributes(a, b)
        finally:
            os.close(a)
            os.close(b)
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=destination)
    elif kind == stat.S_IFREG:
        _copy_file(source, destination, name, found, names)
        return
    elif kind == stat.S_IFSOCK:
        return  # a socket without its listener is nothing
    else:
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=destination)
    os.chown(name, found.st_uid, found.st_gid, dir_fd=destination, follow_symlinks=False)
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=destination, follow_symlinks=False)


def _copy_file(
    source: int, destination: int, name: str, found: os.stat_result, names: dict[tuple[int, int], int]
) -> None:
    key = (found.st_dev, found.st_ino)
    first = names.get(key) if found.st_nlink > 1 else None
    if first is not None:
        os.link(f"/proc/self/fd/{first}", name, dst_dir_fd=destination, follow_symlinks=True)
        return
    a = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    try:
        b = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=destination
        )
        keep = False
        try:
            copy_bytes(a, b)
            _copy_attributes(a, b)
            if found.st_nlink > 1 and len(names) < 512:
                names[key], keep = b, True
        finally:
            if not keep:
                os.close(b)
    finally:
        os.close(a)


def copy_bytes(a: int, b: int) -> None:
    """All of file `a` into the empty file `b`, by the kernel where it can; holes stay holes."""
    size, at = os.fstat(a).st_size, 0
    while at < size:
        try:
            at = os.lseek(a, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:
                break
            raise
        end = os.lseek(a, at, os.SEEK_HOLE)
        while at < end:
            done = _copy_range(a, b, at, end - at)
            if not done:
                break
            at += done
    os.ftruncate(b, size)


def _copy_range(a: int, b: int, at: int, count: int) -> int:
    try:
        return os.copy_file_range(a, b, count, at, at)
    except OSError as e:
        if e.errno not in {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
    os.lseek(b, at, os.SEEK_SET)
    return os.sendfile(b, a, at, min(count, 1 << 30))


def _copy_attributes(a: int, b: int) -> None:
    """Owner, mode, times and extended attributes of descriptor `a` to `b`."""
    found = os.fstat(a)
    os.fchown(b, found.st_uid, found.st_gid)
    os.fchmod(b, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(a):
        if name.startswith(("trusted.overlay.", "user.overlay.", "security.selinux")):
            continue
        try:
            os.setxattr(b, name, os.getxattr(a, name))
        except OSError as e:
            if e.errno != errno.EOPNOTSUPP:
                raise
    os.utime(b, ns=(found.st_atime_ns, found.st_mtime_ns))
