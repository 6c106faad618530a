# SPDX-License-Identifier: Apache-2.0
"""Detached mounts on the real kernel, by both rungs of the ladder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wharfie.errdefs import InvalidArgument
from wharfie.fsutil.beneath import open_in_root
from wharfie.linux import namespaces
from wharfie.mount import Mount
from wharfie.mount.attached import is_mount_point, mount_all, unmount
from wharfie.mount.detached import open_tree

pytestmark = pytest.mark.root
BASE = 1_000_000
IDMAP = (f"uidmap=0:{BASE}:65536", f"gidmap=0:{BASE}:65536")


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    for name in ("a", "b", "up/fs", "up/work"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/one").write_text("from a")
    (tmp_path / "b/one").write_text("from b")
    (tmp_path / "b/two").write_text("two")
    os.chown(tmp_path / "b/two", 5, 6)
    return tmp_path


def overlay(top: Path, *extra: str) -> list[Mount]:
    return [
        Mount(
            "overlay",
            "overlay",
            options=(
                f"lowerdir={top}/a:{top}/b",
                f"upperdir={top}/up/fs",
                f"workdir={top}/up/work",
                *extra,
            ),
        )
    ]


def mount_table() -> str:
    return Path("/proc/self/mountinfo").read_text()


@pytest.fixture(autouse=True)
def _nothing_attached(tmp_path: Path) -> Iterator[None]:
    yield
    assert str(tmp_path) not in mount_table()


def run_as_root_of(userns_fd: int, work) -> bytes:
    """Result of `work()` in a process that is root of the user namespace."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            namespaces.setns(userns_fd, namespaces.CLONE_NEWUSER)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            os.write(w, work())
        except BaseException as e:
            os.write(w, repr(e).encode())
        os._exit(0)
    os.close(w)
    out = os.read(r, 4096)
    os.close(r)
    os.waitpid(pid, 0)
    return out


def at(fd: int, name: str) -> str:
    f = open_in_root(fd, name, os.O_RDONLY)
    with os.fdopen(f) as opened:
        return opened.read()


@pytest.mark.parametrize("by_descriptor", [True, False])
def test_overlay(layers: Path, by_descriptor: bool) -> None:
    fd = open_tree(overlay(layers), by_descriptor=by_descriptor)
    try:
        assert at(fd, "one") == "from a"
        assert at(fd, "/two") == "two"
        os.close(os.open("new", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
    finally:
        os.close(fd)
    assert (layers / "up/fs/new").exists()


@pytest.mark.parametrize("by_descriptor", [True, False])
def test_idmapped_overlay_is_writable_and_keeps_disk_ownership(layers: Path, by_descriptor: bool) -> None:
    fd = open_tree(overlay(layers, *IDMAP), by_descriptor=by_descriptor)
    userns = namespaces.create_userns([(0, BASE, 65536)], [(0, BASE, 65536)])

    def inside() -> bytes:
        os.close(os.open("new", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
        os.chown("new", 7, 8, dir_fd=fd)
        os.unlink("one", dir_fd=fd)
        st = os.stat("two", dir_fd=fd)
        return f"{st.st_uid}:{st.st_gid}".encode()

    try:
        assert run_as_root_of(userns, inside) == b"5:6"
    finally:
        os.close(fd)
        os.close(userns)
    st = (layers / "up/fs/new").stat()
    assert (st.st_uid, st.st_gid) == (7, 8)
    white = (layers / "up/fs/one").lstat()
    assert (white.st_rdev, white.st_uid) == (0, 0)


def test_read_only(layers: Path) -> None:
    fd = open_tree(overlay(layers), read_only=True)
    try:
        with pytest.raises(OSError, match="Read-only"):
            os.open("new", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd)
    finally:
        os.close(fd)


def test_bind_with_a_mount_beneath_it(layers: Path) -> None:
    (layers / "a/sub").mkdir()
    tree = [Mount("bind", f"{layers}/a", options=("rbind", "ro")), Mount("bind", f"{layers}/b", "sub", ("bind",))]
    fd = open_tree(tree)
    try:
        assert at(fd, "sub/two") == "two"
    finally:
        os.close(fd)


def test_idmap_ignored_on_request(layers: Path) -> None:
    fd = open_tree(overlay(layers, *IDMAP), idmap=False)
    try:
        assert os.stat("two", dir_fd=fd).st_uid == 5
    finally:
        os.close(fd)


@pytest.mark.parametrize("option", ["uidmap=0:x:1", "uidmap=5:1000:10"])
def test_bad_idmap(layers: Path, option: str) -> None:
    with pytest.raises(InvalidArgument, match="uidmap"):
        open_tree(overlay(layers, option))


def test_missing_source_names_call_and_object(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"open_tree.*nowhere"):
        open_tree([Mount("bind", f"{tmp_path}/nowhere", options=("bind",))])


def test_attached(layers: Path) -> None:
    target = layers / "at"
    mount_all(overlay(layers), str(target))
    try:
        assert is_mount_point(str(target))
        assert (target / "one").read_text() == "from a"
    finally:
        unmount(str(target))
    assert not is_mount_point(str(target))
    unmount(str(target))


def test_descriptors_are_not_leaked(layers: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        os.close(open_tree(overlay(layers, *IDMAP)))
        with pytest.raises(OSError):
            open_tree([*overlay(layers), Mount("bind", f"{layers}/none", "x", ("bind",))])
    assert len(os.listdir("/proc/self/fd")) == before
