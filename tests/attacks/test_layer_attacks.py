# SPDX-License-Identifier: Apache-2.0
"""Layers that lie or try to get out: each is refused by every snapshotter, and nothing of it stays."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
import zlib
from pathlib import Path

import pytest
import zstandard

from harness.trees import device, digest, directory, hardlink, member, put, seen, symlink, tar
from wharfie.errdefs import DataLoss, ResourceExhausted
from wharfie.snapshots.ladder import open_snapshotter

pytestmark = pytest.mark.root
GOOD = tar("etc/", ("etc/passwd", b"root:x:0:0::/:/bin/sh\n"))


@pytest.fixture(params=["erofs", "overlay", "native"])
def snapshotter(request):
    with tempfile.TemporaryDirectory(prefix="wharfie-attack.", dir="/var/tmp") as place:
        os.mkdir(f"{place}/victim")
        Path(place, "victim/file").write_text("host")
        s = open_snapshotter(request.param, f"{place}/root", f"{place}/run")
        s.victim = f"{place}/victim"
        yield s
        assert {
            p.name: (p.read_text(), oct(p.stat().st_mode), p.stat().st_nlink) for p in Path(place, "victim").iterdir()
        } == {"file": ("host", "0o100644", 1)}
        for info in list(s.walk()):
            if info.kind != "committed":
                s.remove(info.name)
        s.close()


def refused(s, blob: bytes, error=DataLoss, *, diff_id: str | None = None, compression: str = "none", **limits) -> str:
    """Ingest `blob`, which must fail so; its message. Nothing may be left."""
    diff_id = diff_id or digest(blob)
    with pytest.raises(error) as caught:
        s.ingest(io.BytesIO(blob), compression=compression, diff_id=diff_id, **limits)
    assert not s.has_layer(diff_id)
    assert os.listdir(f"{s.directory}/layers") == []
    assert os.listdir(f"{s.directory}/tmp") == []
    # And the store still works.
    s.ingest(io.BytesIO(GOOD), compression="none", diff_id=digest(GOOD))
    s.remove_layer(digest(GOOD))
    return caught.value.message


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/../x", "..", "a/..", "./../x", "a/b/../../../victim/file"])
def test_path_escape(snapshotter, name):
    assert "escapes" in refused(snapshotter, tar((name, b"evil")))
    assert "escapes" in refused(snapshotter, tar("f", hardlink("h", name)))


def test_cve_2021_32760_mode_through_links(snapshotter):
    """containerd: chmod of files outside through a link and a second entry."""
    victim = snapshotter.victim + "/file"
    twice = tar(symlink("s", victim), (member("s", mode=0o777), b"evil"))
    assert seen(snapshotter, put(snapshotter, twice))["s"][0] == oct(0o100777)
    through = tar(symlink("d", snapshotter.victim), (member("d/file", mode=0o777), b"evil"), member("d/new"))
    assert (snapshotter.victim.strip("/") + "/file") in seen(snapshotter, put(snapshotter, through))
    refused_hard = tar(symlink("d", snapshotter.victim), hardlink("h", "d/file"), (member("h", mode=0o777), b"evil"))
    assert not snapshotter.has_layer(digest(refused_hard))
    with pytest.raises(DataLoss, match="not in this layer"):
        snapshotter.ingest(io.BytesIO(refused_hard), compression="none", diff_id=digest(refused_hard))


def test_cve_2026_17106_link_then_file(snapshotter):
    """go-archive, Python tarfile (CVE-2025-4517 and kin): chains of links that lead out when they are followed."""
    deep = "d" * 200
    chain = tar(
        directory(f"{deep}/{deep}"),
        symlink("a", f"{deep}/{deep}"),
        symlink("b", "a/../../../../../../../../.." + snapshotter.victim),
        ("b/file", b"evil"),
        symlink("c", "/proc/self/root" + snapshotter.victim),
        ("c/file", b"evil"),
        symlink("e", "/proc/self/cwd"),
        ("e/x", b"evil"),
    )
    tree = seen(snapshotter, put(snapshotter, chain))
    assert f"{snapshotter.victim.strip('/')}/file" in tree
    assert f"proc/self/root{snapshotter.victim}/file" in tree


def test_cve_2025_47290_link_in_place_of_a_directory(snapshotter):
    swap = tar("d/", ("d/a", b""), symlink("d", snapshotter.victim), ("d/file", b"evil"))
    assert seen(snapshotter, put(snapshotter, swap))["d"][3] == snapshotter.victim


def test_links_in_a_circle(snapshotter):
    assert "too many symbolic links" in refused(snapshotter, tar(symlink("a", "b"), symlink("b", "a"), ("a/x", b"")))


def test_lower_links_lead_nowhere(snapshotter):
    lower = tar(symlink("out", snapshotter.victim), symlink("etc", "/.."))
    upper = tar(("out/file", b"evil"), ("etc/new", b""), "out/.wh.file")
    seen(snapshotter, put(snapshotter, lower, upper))


def test_file_as_a_parent(snapshotter):
    assert "no directory" in refused(snapshotter, tar(("a", b""), ("a/b", b"")))


@pytest.mark.parametrize(
    "key", ["trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.overlay.metacopy", "user.overlay.opaque"]
)
def test_overlay_xattrs(snapshotter, key):
    assert "reserved" in refused(snapshotter, tar(directory("d", xattrs={key: "y"})))
    assert "reserved" in refused(snapshotter, tar(member("f", xattrs={key: "/etc"})))
    # libarchive's spelling of the same.
    odd = member("f")
    odd.pax_headers = {"LIBARCHIVE.xattr." + key.replace(".", "%2E"): "eQ"}
    assert "reserved" in refused(snapshotter, tar(odd))


def test_device_zero(snapshotter):
    assert "whiteout" in refused(snapshotter, tar(device("etc/passwd", tarfile.CHRTYPE, 0, 0)))
    assert "whiteout" in refused(snapshotter, tar(device("etc/passwd", tarfile.BLKTYPE, 0, 0)))


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.."])
def test_whiteouts_of_nothing(snapshotter, name):
    refused(snapshotter, tar("d/", name))


def test_hard_links_to_what_is_not_there(snapshotter):
    refused(snapshotter, tar(hardlink("h", "etc/passwd")))
    refused(snapshotter, tar(hardlink("h", "h")))
    refused(snapshotter, tar("d/", hardlink("h", "d")))
    refused(snapshotter, tar(".wh.x", hardlink("h", "x")))
    refused(snapshotter, tar("d/", hardlink("h", "d/../../victim/file")))


def test_the_root_is_a_directory(snapshotter):
    refused(snapshotter, tar(symlink("./", "/etc")))
    refused(snapshotter, tar(symlink(".", "/etc")))
    refused(snapshotter, tar((member("."), b"evil")))


def test_lying_digest(snapshotter):
    assert "its tar is" in refused(snapshotter, GOOD, diff_id=digest(b"another"))


@pytest.mark.parametrize("cut", [1, 100, 511, 513, 1030, 1500])
def test_truncated(snapshotter, cut):
    whole = tar(("a", b"x" * 700), ("b", b"y" * 700))
    refused(snapshotter, whole[:cut])
    refused(snapshotter, gzip.compress(whole)[:-4], diff_id=digest(whole), compression="gzip")
    refused(snapshotter, zstandard.ZstdCompressor().compress(os.urandom(5000) + whole)[:-50], compression="zstd")


def test_rubbish_behind(snapshotter):
    packed = gzip.compress(GOOD)
    refused(snapshotter, packed + b"rubbish", diff_id=digest(GOOD), compression="gzip")
    refused(snapshotter, packed + bytes(600) + b"x", diff_id=digest(GOOD), compression="gzip")
    refused(snapshotter, GOOD + b"\0" * 512 + b"hidden".ljust(512, b"\0"))
    refused(
        snapshotter, zstandard.ZstdCompressor().compress(GOOD) + b"rubbish", diff_id=digest(GOOD), compression="zstd"
    )
    refused(snapshotter, b"", diff_id=digest(GOOD), compression="gzip")
    refused(snapshotter, GOOD, compression="gzip")
    refused(snapshotter, packed, compression="zstd", diff_id=digest(GOOD))
    wrong = packed[:-8] + zlib.crc32(b"other").to_bytes(4, "little") + packed[-4:]
    refused(snapshotter, wrong, diff_id=digest(GOOD), compression="gzip")


def test_bomb_by_ratio_and_by_size(snapshotter):
    class Zeros:
        """A gzip bomb of 1 TiB that nobody has to hold."""

        def __init__(self) -> None:
            self._pack = zlib.compressobj(9, zlib.DEFLATED, 31)
            self._first = tar((member("bomb"), b""))[:512]
            self.given = 0

        def read(self, n: int = -1) -> bytes:
            out = b""
            while not out:
                out = self._pack.compress(self._first + bytes(8 << 20))
                self._first = b""
            self.given += len(out)
            return out

    huge = tarfile.TarInfo("bomb")
    huge.size = 1 << 40
    for limits in ({"max_ratio": 100.0}, {"max_size_bytes": 20 << 20}):
        bomb = Zeros()
        bomb._first = huge.tobuf(tarfile.GNU_FORMAT)
        with pytest.raises(ResourceExhausted):
            snapshotter.ingest(bomb, compression="gzip", diff_id=digest(b"bomb"), **limits)
        assert bomb.given < 2 << 20
        assert os.listdir(f"{snapshotter.directory}/layers") == []
        assert os.listdir(f"{snapshotter.directory}/tmp") == []


def test_bomb_in_a_header(snapshotter):
    long = tarfile.TarInfo("x")
    long.type = tarfile.GNUTYPE_LONGNAME
    long.size = 1 << 33
    refused(snapshotter, long.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16), ResourceExhausted)


def test_bomb_in_a_sparse_map(snapshotter):
    """A terabyte of holes is fine (and small); a map that would make it large is not."""
    holes = member("holes")
    holes.pax_headers = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": f"{(1 << 40) - 4},4"}
    name = put(snapshotter, tar((holes, b"tail")))
    assert snapshotter.layer_info(digest(tar((holes, b"tail")))).size_bytes < 64 << 20
    assert name
    fine = member("fine")
    offsets = range(0, 1 << 45, 1 << 31)
    fine.pax_headers = {"GNU.sparse.size": str(1 << 45), "GNU.sparse.map": ",".join(f"{o},1" for o in offsets)}
    if snapshotter.name == "erofs":
        with pytest.raises(ResourceExhausted):
            snapshotter.ingest(
                io.BytesIO(tar((fine, b"x" * len(offsets)))),
                compression="none",
                diff_id=digest(tar((fine, b"x" * len(offsets)))),
            )
    overlap = member("overlap")
    overlap.pax_headers = {"GNU.sparse.size": "100", "GNU.sparse.map": "0,4,2,4"}
    with pytest.raises(DataLoss):
        data = tar((overlap, b"12345678"))
        snapshotter.ingest(io.BytesIO(data), compression="none", diff_id=digest(data))


def test_state_is_closed_to_others(snapshotter):
    """CVE-2021-41103, CVE-2024-25621: set-id files of images must not be reachable by users of the host."""
    put(snapshotter, tar((member("suid", mode=0o4755), b"#!/bin/sh\n")))
    snapshotter.prepare("c", put(snapshotter, GOOD))
    for path, directories, _ in os.walk(snapshotter.directory):
        if path == snapshotter.directory:
            for name in set(directories) - {"empty"}:
                assert os.stat(f"{path}/{name}").st_mode & 0o007 == 0, name
            break
    links = snapshotter.victim.removesuffix("/victim") + "/run/l"
    if os.path.isdir(links):
        assert os.stat(links).st_mode & 0o077 == 0
