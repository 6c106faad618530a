# SPDX-License-Identifier: Apache-2.0
"""Walks that must stay beneath their root."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wharfie.fsutil.beneath import create_file_in_root, mkdirs_in_root, open_in_root, open_root


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    top = tmp_path / "root"
    (top / "etc").mkdir(parents=True)
    (top / "etc/passwd").write_text("root:x:0:0")
    fd = open_root(str(top))
    yield top, fd
    os.close(fd)
    assert sorted(p.name for p in (tmp_path / "outside").iterdir()) == ["secret"]


@pytest.mark.parametrize("path", ["/etc/passwd", "etc/passwd", "../../etc/passwd", "/link/passwd", "/abs/passwd"])
def test_paths_mean_the_root(root: tuple[Path, int], path: str) -> None:
    top, fd = root
    (top / "link").symlink_to("etc")
    (top / "abs").symlink_to("/etc")
    f = open_in_root(fd, path, os.O_RDONLY)
    assert os.read(f, 100) == b"root:x:0:0"
    os.close(f)


def test_links_cannot_leave(root: tuple[Path, int]) -> None:
    top, fd = root
    (top / "up").symlink_to("../../outside/secret")
    (top / "out").symlink_to(top.parent / "outside")
    with pytest.raises(FileNotFoundError):
        open_in_root(fd, "up", os.O_RDONLY)
    with pytest.raises(FileNotFoundError):
        open_in_root(fd, "out/secret", os.O_RDONLY)


def test_no_symlinks(root: tuple[Path, int]) -> None:
    top, fd = root
    (top / "link").symlink_to("etc")
    with pytest.raises(OSError) as e:
        open_in_root(fd, "link/passwd", os.O_RDONLY, symlinks=False)
    assert e.value.errno == errno.ELOOP


def test_mkdirs(root: tuple[Path, int]) -> None:
    top, fd = root
    (top / "var").symlink_to("/data/var")
    os.close(mkdirs_in_root(fd, "/var/lib/x", 0o700))
    assert (top / "data/var/lib/x").is_dir()
    (top / "escape").symlink_to("../../outside/made")
    os.close(mkdirs_in_root(fd, "escape/sub"))
    assert (top / "outside/made/sub").is_dir()
    with pytest.raises(OSError, match=r"\.\."):
        mkdirs_in_root(fd, "no/../where")
    with pytest.raises(NotADirectoryError):
        mkdirs_in_root(fd, "etc/passwd/x")


def test_create_file_makes_a_dangling_links_target(root: tuple[Path, int]) -> None:
    top, fd = root
    (top / "etc/resolv.conf").symlink_to("../run/stub/resolv.conf")
    os.close(create_file_in_root(fd, "/etc/resolv.conf"))
    assert (top / "run/stub/resolv.conf").is_file()
    os.close(create_file_in_root(fd, "/etc/passwd"))
    assert (top / "etc/passwd").read_text() == "root:x:0:0"
    (top / "a").symlink_to("../../outside/new")
    os.close(create_file_in_root(fd, "/a"))
    assert (top / "outside/new").is_file()


def test_magic_links_are_refused() -> None:
    fd = open_root("/proc")
    with pytest.raises(OSError) as e:
        open_in_root(fd, "self/root/etc", os.O_RDONLY)
    os.close(fd)
    assert e.value.errno == errno.ELOOP
