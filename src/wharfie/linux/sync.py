# SPDX-License-Identifier: Apache-2.0
"""Writing back: syncfs(2) and sync_file_range(2), which `os` lacks. Both let other threads run."""

from __future__ import annotations

import ctypes
import sys

from wharfie.linux.libc import error

SYNC_FILE_RANGE_WRITE = 2

_libc: ctypes.CDLL | None = None


def _lib() -> ctypes.CDLL:
    global _libc
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform != "win32":
            _libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return _libc


def syncfs(fd: int) -> None:
    """Wait until everything written to the file system of `fd` is on disk."""
    if _lib().syncfs(fd) == -1:
        raise error("syncfs", f"fd {fd}")


def start_writeback(fd: int, offset: int, size: int) -> None:
    """Begin to write a range to disk without waiting, so that a later fsync has little left to do."""
    if _lib().sync_file_range(fd, offset, size, SYNC_FILE_RANGE_WRITE) == -1:
        raise error("sync_file_range", f"fd {fd}")
