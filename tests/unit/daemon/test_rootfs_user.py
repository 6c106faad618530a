# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from wharfie.daemon.services import rootfs_user
from wharfie.errdefs import InvalidArgument
from wharfie.mount import Mount

pytestmark = [pytest.mark.root]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n1000:x:0:0\n"
    )
    (tmp_path / "etc/group").write_text("root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")
    return tmp_path


def resolve(root: Path, user: str) -> rootfs_user.ResolvedUser:
    return rootfs_user.resolve(user, (), [Mount("bind", str(root), "", ("rbind",))], None)


def test_names_and_numbers(root: Path) -> None:
    found = resolve(root, "user")
    assert (found.uid, found.gid, found.additional_gids, found.home) == (1000, 1000, (1000, 2000), "/home/user")
    assert resolve(root, "user:extra").gid == 2000


def test_cve_2026_46680_a_number_is_a_number(root: Path) -> None:
    assert resolve(root, "1000").uid == 1000


def test_cve_2024_40635_ids_do_not_wrap(root: Path) -> None:
    for user in ("4294967296:1", "2147483648", "0:4294967296"):
        with pytest.raises(InvalidArgument):
            resolve(root, user)


def test_cve_2026_47262_an_endless_group_file_is_read_to_a_bound(root: Path) -> None:
    with (root / "etc/group").open("wb") as f:
        f.truncate(2 << 30)
    with pytest.raises(InvalidArgument, match="group"):
        resolve(root, "user")


def test_cve_2024_9676_links_stay_inside_and_odd_files_are_not_read(root: Path) -> None:
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("/etc/passwd-inside")
    (root / "etc/passwd-inside").write_text("inside:x:7:7::/:\n")
    assert resolve(root, "inside").uid == 7
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("../../../../../../etc/passwd")
    with pytest.raises(InvalidArgument, match="no such name"):
        resolve(root, "daemon")
    (root / "etc/passwd").unlink()
    os.mkfifo(root / "etc/passwd")
    with pytest.raises(InvalidArgument, match="no such name"):
        resolve(root, "user")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("/proc/self/fd/0")
    assert resolve(root, "0").uid == 0


def test_looking_does_not_write_to_the_upper_directory(tmp_path: Path) -> None:
    for name in ("lower/etc", "upper/etc", "work"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lower/etc/passwd").write_text("user:x:1:1::/:\n")
    (tmp_path / "upper/etc/passwd").write_text("user:x:2:2::/:\n")
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    mount = Mount(
        "overlay",
        "overlay",
        "",
        (f"lowerdir={tmp_path}/lower", f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work"),
    )
    assert rootfs_user.resolve("user", (), [mount], None).uid == 2
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_in_a_process(root: Path) -> None:
    assert rootfs_user.resolve_in("root", (), os.getpid()).home == "/root"
