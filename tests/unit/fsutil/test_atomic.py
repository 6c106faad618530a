# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from wharfie.fsutil import atomic
from wharfie.fsutil.lock import FileLock


def test_write_replaces_with_exact_mode(tmp_path: Path) -> None:
    path = tmp_path / "f"
    old = os.umask(0o077)
    try:
        atomic.write(str(path), b"one", 0o644, fsync=True)
        atomic.write(str(path), b"two", 0o666)
    finally:
        os.umask(old)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o7777 == 0o666
    assert os.listdir(tmp_path) == ["f"]


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(IsADirectoryError):
        atomic.write(str(tmp_path / "d"), b"x")
    assert os.listdir(tmp_path) == ["d"]


def test_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with FileLock(path):
        with pytest.raises(BlockingIOError), FileLock(path, blocking=False):
            pass
    with FileLock(path, shared=True), FileLock(path, shared=True, blocking=False):
        pass
