# SPDX-License-Identifier: Apache-2.0
"""Changes of real snapshots, as lists and as layers that make the same tree again."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from harness.trees import digest, directory, hardlink, look, member, opened, put, seen, symlink, tar
from wharfie.diff import Change
from wharfie.diff.compare import changes, compare_mounts, write_layer, write_mounts
from wharfie.errdefs import FailedPrecondition
from wharfie.snapshots.ladder import open_snapshotter

pytestmark = pytest.mark.root
BASE = tar(
    directory(".", mode=0o755),
    "etc/",
    ("etc/a", b"a"),
    ("etc/b", b"b"),
    ("etc/same", b"same"),
    "usr/",
    "usr/lib/",
    ("usr/lib/x", b"x"),
    (member("usr/lib/first", mode=0o755), b"linked"),
    hardlink("usr/lib/second", "usr/lib/first"),
    "gone/",
    ("gone/1", b"1"),
    ("gone/2", b"2"),
    symlink("link", "etc"),
    "keep/",
    ("keep/k", b"k"),
)


@pytest.fixture(params=["erofs", "overlay", "native"])
def snapshotter(request):
    with tempfile.TemporaryDirectory(prefix="wharfie-diff.", dir="/var/tmp") as place:
        s = open_snapshotter(request.param, f"{place}/root", f"{place}/run")
        s.assemble("base", None, s.ingest(io.BytesIO(BASE), compression="none", diff_id=digest(BASE)).diff_id)
        yield s
        for info in list(s.walk()):
            if info.kind != "committed":
                s.remove(info.name)
        s.close()


def layer_of(s, key: str, **options) -> bytes:
    parts: list[bytes] = []
    write_layer(s, key, lambda data: parts.append(bytes(data)), **options)
    return b"".join(parts)


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as t:
        return t.getnames()


def work(root: str) -> None:
    """What a container may do to BASE."""
    r = Path(root)
    (r / "etc/a").write_bytes(b"changed")
    (r / "etc/new").write_bytes(b"new")
    os.chown(r / "etc/new", 1000, 100_000)
    os.unlink(r / "etc/b")
    subprocess.run(["rm", "-rf", root + "/gone"], check=True)
    os.mkdir(r / "gone", 0o711)
    (r / "gone/2").write_bytes(b"again")
    os.unlink(r / "link")
    os.mkdir(r / "link")
    (r / "link/inside").touch()
    os.mkdir(r / ("d" * 200))
    os.symlink("t" * 300, r / ("d" * 200) / ("s" * 200))
    os.mknod(r / "node", 0o020640, os.makedev(5, 1))
    os.mkfifo(r / "fifo")
    os.setxattr(r / "etc/new", "user.x", b"\0\n=")
    os.link(r / "etc/new", r / "other name")
    os.utime(r / "etc/a", ns=(0, -1_500_000_000))
    os.chmod(r / "usr/lib/x", 0o4711)
    (r / "größe\n").touch()


EXPECTED = [
    Change("A", b"/" + b"d" * 200),
    Change("A", b"/" + b"d" * 200 + b"/" + b"s" * 200),
    Change("C", b"/etc"),
    Change("C", b"/etc/a"),
    Change("D", b"/etc/b"),
    Change("A", b"/etc/new"),
    Change("A", b"/fifo"),
    Change("C", b"/gone"),
    Change("D", b"/gone/1"),
    Change("C", b"/gone/2"),
    Change("A", "/größe\n".encode()),
    Change("C", b"/link"),
    Change("A", b"/link/inside"),
    Change("A", b"/node"),
    Change("A", b"/other name"),
    Change("C", b"/usr"),
    Change("C", b"/usr/lib"),
    Change("C", b"/usr/lib/x"),
]


def test_changes_are_listed(snapshotter):
    with opened(snapshotter.prepare("c", "base")) as path:
        work(path)
    assert changes(snapshotter, "c") == EXPECTED
    assert compare_mounts(snapshotter.below("c"), snapshotter.mounts("c")) == EXPECTED


def test_nothing_changed_is_an_empty_layer(snapshotter):
    snapshotter.prepare("c", "base")
    assert changes(snapshotter, "c") == []
    assert layer_of(snapshotter, "c") == bytes(1024)


def test_the_layer_makes_the_same_tree(snapshotter):
    with opened(snapshotter.prepare("c", "base")) as path:
        work(path)
        want = look(path)
    data = layer_of(snapshotter, "c")
    snapshotter.ingest(io.BytesIO(data), compression="none", diff_id=digest(data))
    snapshotter.assemble("again", "base", digest(data))
    got = seen(snapshotter, "again")
    # The root is only in a layer when more than its time has changed.
    assert {**got, "": got[""][:4]} == {**want, "": want[""][:4]}


def test_the_same_changes_give_the_same_bytes(snapshotter):
    layers = []
    for key in ("c1", "c2"):
        with opened(snapshotter.prepare(key, "base")) as path:
            work(path)
            for name in ("etc", "etc/new", "etc/a", "gone", "gone/2", "link", "link/inside", "größe\n", "fifo", "node"):
                os.utime(f"{path}/{name}", ns=(5, 5))
            for name in ("d" * 200, "d" * 200 + "/" + "s" * 200):
                os.utime(f"{path}/{name}", ns=(7, 7), follow_symlinks=False)
        layers.append(layer_of(snapshotter, key))
    assert layers[0] == layers[1]
    # umoci, skopeo and docker read what tar(1) reads.
    listed = subprocess.run(["tar", "-tf", "-"], input=layers[0], capture_output=True, check=True).stdout
    assert b"etc/.wh.b" in listed
    assert b"gone/.wh.1" in listed


def test_copy_ups_without_a_change_are_dropped(snapshotter):
    with opened(snapshotter.prepare("c", "base")) as path:
        with open(f"{path}/etc/same", "r+b"):
            pass
        os.chmod(f"{path}/keep/k", 0o600)
        os.chmod(f"{path}/keep/k", 0o644)
        st = os.stat(f"{path}/etc")
        Path(path, "etc/passing").touch()
        os.unlink(f"{path}/etc/passing")
        os.utime(f"{path}/etc", ns=(st.st_atime_ns, st.st_mtime_ns))
    assert changes(snapshotter, "c") == []


def test_data_changed_behind_an_old_time_is_found(snapshotter):
    with opened(snapshotter.prepare("c", "base")) as path:
        st = os.stat(f"{path}/etc/a")
        Path(path, "etc/a").write_bytes(b"z")
        os.utime(f"{path}/etc/a", ns=(st.st_atime_ns, st.st_mtime_ns))
    assert Change("C", b"/etc/a") in changes(snapshotter, "c")


def test_new_link_to_a_file_below_stays_a_link(snapshotter):
    with opened(snapshotter.prepare("c", "base")) as path:
        os.link(f"{path}/etc/same", f"{path}/etc/zz")
    data = layer_of(snapshotter, "c")
    with tarfile.open(fileobj=io.BytesIO(data)) as t:
        assert t.getmember("etc/zz").islnk()
        assert t.getmember("etc/same").isreg()


def test_opaque_directory_becomes_explicit_whiteouts(snapshotter):
    with opened(snapshotter.prepare("c", "base")) as path:
        subprocess.run(["rm", "-rf", path + "/usr"], check=True)
        os.makedirs(f"{path}/usr/lib")
        Path(path, "usr/lib/y").touch()
    assert names(layer_of(snapshotter, "c")) == [
        "usr", "usr/lib", "usr/lib/.wh.first", "usr/lib/.wh.second", "usr/lib/.wh.x", "usr/lib/y",
    ]  # fmt: skip


def test_names_a_layer_cannot_hold(snapshotter):
    with opened(snapshotter.prepare("c", "base")) as path:
        Path(path, "etc/.wh.a").touch()
    with pytest.raises(FailedPrecondition, match=r"\.wh\."):
        layer_of(snapshotter, "c")


def test_root_attributes_are_in_the_layer(snapshotter):
    with opened(snapshotter.prepare("c", "base")) as path:
        os.chmod(path + "/.", 0o700)
    data = layer_of(snapshotter, "c")
    with tarfile.open(fileobj=io.BytesIO(data)) as t:
        assert [(m.name, oct(m.mode)) for m in t] == [(".", oct(0o700))]


def test_whole_seconds(snapshotter):
    with opened(snapshotter.prepare("c", "base")) as path:
        Path(path, "n").touch()
        os.utime(f"{path}/n", ns=(0, 1_500_000_000))
    assert b"mtime=1.5" in layer_of(snapshotter, "c")
    assert b"mtime" not in layer_of(snapshotter, "c", whole_seconds=True)


def test_between_two_images(snapshotter):
    other = tar(directory(".", mode=0o755), "etc/", ("etc/a", b"other"), ("extra", b""))
    top = put(snapshotter, other)
    parts: list[bytes] = []
    lower, upper = snapshotter.view("l", "base"), snapshotter.view("u", top)
    write_mounts(lower, upper, lambda data: parts.append(bytes(data)))
    data = b"".join(parts)
    snapshotter.ingest(io.BytesIO(data), compression="none", diff_id=digest(data))
    snapshotter.assemble("moved", "base", digest(data))
    assert seen(snapshotter, "moved") == seen(snapshotter, top)


def test_metacopy_is_refused_and_redirect_is_walked(tmp_path):
    with tempfile.TemporaryDirectory(prefix="wharfie-diff.", dir="/var/tmp") as place:
        s = open_snapshotter("overlay", f"{place}/root", f"{place}/run")
        base = put(s, BASE)
        s.prepare("c", base)
        upper = s.upper("c")
        assert upper is not None
        Path(upper, "f").touch()
        os.setxattr(f"{upper}/f", "trusted.overlay.metacopy", b"")
        with pytest.raises(FailedPrecondition, match="metacopy"):
            changes(s, "c")
        os.unlink(f"{upper}/f")
        on = [m._replace(options=tuple(o.replace("redirect_dir=nofollow", "redirect_dir=on") for o in m.options))
              for m in s.mounts("c")]  # fmt: skip
        with opened(on) as path:
            os.rename(f"{path}/keep", f"{path}/moved")
        assert os.getxattr(f"{upper}/moved", "trusted.overlay.redirect") == b"keep"
        assert changes(s, "c") == [Change("D", b"/keep"), Change("A", b"/moved"), Change("A", b"/moved/k")]
        s.close()
