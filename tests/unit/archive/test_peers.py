# SPDX-License-Identifier: Apache-2.0
"""Tars and layers that other programs make are read; what we write, they read."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from harness.trees import look
from wharfie.archive.compression import detect, inflate
from wharfie.archive.entry import DIRECTORY
from wharfie.archive.pack import pack
from wharfie.archive.scan import Scanner
from wharfie.archive.write import Writer

pytestmark = pytest.mark.root


@pytest.fixture
def tree():
    with tempfile.TemporaryDirectory(prefix="wharfie-archive.", dir="/var/tmp") as place:
        root = Path(place, "tree")
        root.mkdir()
        (root / "d" / ("n" * 150) / ("m" * 200)).mkdir(parents=True)
        (root / "d/file").write_bytes(os.urandom(100_000))
        (root / "d" / ("n" * 150) / ("m" * 200) / "deep").write_bytes(b"deep")
        os.link(root / "d/file", root / "hard")
        os.symlink("x" * 200, root / "long link")
        os.chown(root / "d/file", 3_000_000, 70_000)
        os.chmod(root / "d/file", 0o4711)
        os.setxattr(root / "d/file", "user.a", b"v\n")
        os.mknod(root / "node", 0o020600, os.makedev(10, 200))
        os.mkfifo(root / "fifo")
        (root / "größe").touch()
        for path in sorted(root.rglob("*"), reverse=True):
            os.utime(path, ns=(10**18, 10**18 + len(str(path))), follow_symlinks=False)
        os.utime(root, ns=(10**18, 10**18))
        yield str(root)


def listed(data: bytes) -> dict[bytes, tuple]:
    return {e.path: (e.kind, e.mode, e.uid, e.gid, e.size, e.link, e.device, e.mtime_s) for e in Scanner([data])}


def test_every_format_of_gnu_tar_says_the_same(tree):
    lists = []
    for form in ("gnu", "oldgnu", "posix"):
        data = subprocess.run(
            ["tar", "-cf", "-", f"--format={form}", "--sort=name", "-C", tree, "."], capture_output=True, check=True
        ).stdout
        lists.append(listed(data))
    assert lists[0] == lists[1] == lists[2]
    assert lists[0][b"d/file"][:4] == (0o100000, 0o4711, 3_000_000, 70_000)
    assert lists[0][b"long link"][5] == b"x" * 200


def test_python_formats(tree):
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as t:
            t.add(tree, arcname=".")
        names = set(listed(out.getvalue()))
        assert "größe".encode() in names
        assert b"d/" + b"n" * 150 + b"/" + b"m" * 200 + b"/deep" in names


def test_v7_and_ustar(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ("p" * 80)).mkdir()
    (tmp_path / "d" / ("p" * 80) / ("f" * 90)).write_bytes(b"x")
    for form, at in (("v7", tmp_path / "d" / ("p" * 80)), ("ustar", tmp_path)):
        data = subprocess.run(
            ["tar", "-cf", "-", f"--format={form}", "-C", at, "."], capture_output=True, check=True
        ).stdout
        assert any(path.endswith(b"f" * 90) for path in listed(data))


def test_packed_tree_comes_out_of_tar_the_same(tree, tmp_path):
    out = bytearray()
    fd = os.open(tree, os.O_RDONLY)
    try:
        writer = Writer(out.extend)
        pack(writer, fd)
        writer.close()
        again = bytearray()
        writer = Writer(again.extend)
        pack(writer, fd)
        writer.close()
    finally:
        os.close(fd)
    assert out == again
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        subprocess.run(
            ["tar", "-xpf", "-", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--delay-directory-restore", "-C", place],
            input=bytes(out), check=True,
        )  # fmt: skip
        got, want = look(place), look(tree)
    assert {**got, "": None} == {**want, "": None}


def test_pack_one_file_under_another_name(tree):
    out = bytearray()
    fd = os.open(tree + "/d", os.O_RDONLY)
    try:
        writer = Writer(out.extend)
        pack(writer, fd, b"file", b"renamed")
        writer.close()
    finally:
        os.close(fd)
    assert list(listed(bytes(out))) == [b"renamed"]


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"not installed: {program}")


def layers(layout: Path) -> list[bytes]:
    """The layers of the only image of an OCI layout, inflated."""

    def blob(d: str) -> bytes:
        return (layout / "blobs/sha256" / d.split(":")[1]).read_bytes()

    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads(blob(index["manifests"][0]["digest"]))
    found = []
    for layer in manifest["layers"]:
        data = blob(layer["digest"])
        found.append(b"".join(inflate(io.BytesIO(data), detect(data[:4]) or "none")))
    return found


@pytest.mark.peer
def test_layers_of_umoci_and_skopeo(tree, tmp_path):
    need("umoci")
    need("skopeo")
    layout = tmp_path / "image"
    subprocess.run(["umoci", "init", "--layout", layout], check=True)
    subprocess.run(["umoci", "new", "--image", f"{layout}:x"], check=True)
    subprocess.run(["umoci", "insert", "--image", f"{layout}:x", tree, "/in"], check=True)
    subprocess.run(["umoci", "insert", "--image", f"{layout}:x", "--whiteout", "/in/d/file"], check=True)
    first, second = layers(layout)
    assert b"in/d/file" in listed(first)
    assert listed(first)[b"in/d"][0] == DIRECTORY
    assert list(listed(second)) == [b"in/d/.wh.file"]
    for kind in ("gzip", "zstd"):
        target = tmp_path / kind
        subprocess.run(
            ["skopeo", "copy", "-q", "--dest-compress-format", kind, f"oci:{layout}:x", f"oci:{target}:x"], check=True
        )
        assert [listed(layer) for layer in layers(target)] == [listed(first), listed(second)]
