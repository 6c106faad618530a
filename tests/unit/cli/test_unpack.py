# SPDX-License-Identifier: Apache-2.0
"""What a hostile container may put in the archive that `cp` unpacks (attacks: links that lead out, names with ..)."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from wharfie.cli.container.unpack import pack, unpack
from wharfie.errdefs import DataLoss


def archive(*members: tuple[str, bytes, str]) -> list[bytes]:
    """(name, type, link or content)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = text
                tar.addfile(info)
            else:
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
    data = out.getvalue()
    return [data[i : i + 700] for i in range(0, len(data), 700)]


FILE, DIR, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    "members",
    [
        [("top", DIR, ""), ("top/../../evil", FILE, "x")],
        [("../evil", FILE, "x")],
        [("top", DIR, ""), ("top/l", LINK, "../.."), ("top/l/evil", FILE, "x")],
        [("top", LINK, ".."), ("top/evil", FILE, "x")],
        [("top", DIR, ""), ("top/h", HARD, "../../secret")],
        [("top", DIR, ""), ("top/l", LINK, "../secret-dir"), ("top/h", HARD, "top/l/secret")],
        [("top", DIR, ""), ("top/d", LINK, "/etc"), ("top/d", DIR, ""), ("top/d/evil", FILE, "x")],
    ],
)
def test_nothing_lands_outside(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_text("s")
    (tmp_path / "secret-dir").mkdir()
    (tmp_path / "secret-dir/secret").write_text("s")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((DataLoss, OSError)):
        unpack(archive(*members), str(inside), top="top", name="top", owners=False)
    assert [p for p in sorted(tmp_path.rglob("*")) if inside not in p.parents] == before
    assert not Path("/etc/evil").exists()
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_a_link_that_is_there_is_replaced_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "file").symlink_to(target)
    unpack(archive(("file", FILE, "new")), str(inside), top="file", name="file", owners=False)
    assert target.read_text() == "old"
    assert (inside / "file").read_text() == "new"
    assert not (inside / "file").is_symlink()


def test_pack_and_unpack(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/file").write_bytes(bytes(range(256)) * 9001)
    (source / "empty").write_bytes(b"")
    (source / ("long" * 60)).write_text("long name")
    (source / "ü").symlink_to("a/b/file")
    counted = [0]
    target = tmp_path / "target"
    target.mkdir()
    written = unpack(pack(str(source), "x", counted), str(target), top="x", name="y", owners=False)
    assert written == counted[0] == 256 * 9001 + 9
    assert (target / "y/a/b/file").read_bytes() == (source / "a/b/file").read_bytes()
    assert (target / "y/ü").readlink() == Path("a/b/file")
    assert {p.name for p in (target / "y").iterdir()} == {p.name for p in source.iterdir()}


def test_cut_archive(tmp_path: Path) -> None:
    with pytest.raises((DataLoss, OSError)):
        unpack(archive(("f", FILE, "x" * 5000))[:3], str(tmp_path), top="f", name="f", owners=False)
