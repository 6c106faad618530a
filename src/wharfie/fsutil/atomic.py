# SPDX-License-Identifier: Apache-2.0
"""Whole files or none: written beside, synced where it must survive a power cut, renamed."""

from __future__ import annotations

import os
import sys


def sync_directory(path: str) -> None:
    """Sync a directory, so that names in it survive a power cut. Windows has no such call."""
    if sys.platform != "win32":
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write(path: str, data: bytes, mode: int = 0o644, *, fsync: bool = False) -> None:
    """Replace `path` by a file holding `data`. Readers see the old or the new content, never a part.

    The mode is exact (umask does not count). With fsync, file and name have reached the disk on return.
    Raises: OSError; the temporary file is removed then.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.getpid():x}-{os.urandom(4).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if sys.platform != "win32":
                os.fchmod(fd, mode)
            if fsync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise
    if fsync:
        sync_directory(directory or ".")
