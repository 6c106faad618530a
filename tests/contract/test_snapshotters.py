# SPDX-License-Identifier: Apache-2.0
"""One suite for every snapshotter: what the contract in `wharfie.snapshots` promises."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
import tempfile
import threading
from pathlib import Path

import pytest
import zstandard

from harness.trees import device, digest, directory, hardlink, look, member, opened, put, seen, symlink, tar
from wharfie.errdefs import (
    AlreadyExists,
    Conflict,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unsupported,
)
from wharfie.snapshots import KIND_ACTIVE, KIND_COMMITTED, KIND_VIEW
from wharfie.snapshots.ladder import choose, open_snapshotter, probe_all

pytestmark = pytest.mark.root
NAMES = ("erofs", "overlay", "native")
REAL = tar(
    directory(".", mode=0o711),
    "bin/",
    (member("bin/tool", mode=0o4755, uid=3, gid=4), b"#!/bin/sh\n"),
    hardlink("bin/other", "bin/tool"),
    symlink("sbin", "bin", uid=7, gid=8),
    directory("var", mode=0o1777, uid=100_001, gid=5, mtime=-3.25),
    (
        member("var/capable", xattrs={"security.capability": "\x01\0\0\x02\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"}),
        b"x" * 5000,
    ),
    (member("var/noted", xattrs={"user.note": "hello"}, mtime=1_600_000_000.123456789), b""),
    device("var/null", tarfile.CHRTYPE, 1, 3, mode=0o666),
    device("var/disk", tarfile.BLKTYPE, 259, 70_000, mode=0o600),
    member("var/pipe", type=tarfile.FIFOTYPE, mode=0o620),
    ("var/" + "n" * 200 + "/" + "m" * 200, b"deep"),
    ("var/größe\n", b"odd name"),
)


@pytest.fixture
def place():
    # Not tmp_path: /tmp may be a tmpfs, and the store belongs on a disk.
    with tempfile.TemporaryDirectory(prefix="wharfie-snap.", dir="/var/tmp") as path:
        yield path


@pytest.fixture(params=NAMES)
def snapshotter(request, place):
    s = open_snapshotter(request.param, f"{place}/root", f"{place}/run")
    yield s
    for info in sorted(s.walk(), key=lambda i: i.kind == KIND_COMMITTED):
        if info.kind != KIND_COMMITTED:
            s.remove(info.name)
    s.close()
    with open("/proc/self/mountinfo") as f:
        assert place not in f.read(), "a mount was left behind"


@pytest.fixture
def fresh(place):
    """Opens the same store again, as a new process would."""
    return lambda s: open_snapshotter(s.name, f"{place}/root", f"{place}/run")


def no_temporaries(s) -> None:
    assert os.listdir(f"{s.directory}/tmp") == []


def test_a_layer_looks_as_tar_says(snapshotter, place):
    name = put(snapshotter, REAL)
    shown = seen(snapshotter, name)
    os.mkdir(f"{place}/plain")
    subprocess.run(
        ["tar", "-xpf", "-", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", f"{place}/plain"],
        input=REAL,
        check=True,
    )
    plain = look(f"{place}/plain")
    made = "var/" + "n" * 200  # by nobody's entry: its time is the extractor's affair
    assert shown.pop(made)[:4] == plain.pop(made)[:4]
    assert shown == plain


def test_ingest_reports_what_it_saw(snapshotter):
    info = snapshotter.ingest(io.BytesIO(REAL), compression="none", diff_id=digest(REAL))
    assert info.diff_id == digest(REAL)
    assert info.extra_ids == (100_001,)
    assert info.implicit_parents
    assert info.entries == 13
    assert info.size_bytes > 5000
    assert snapshotter.layer_info(digest(REAL)) == info
    assert snapshotter.has_layer(digest(REAL))
    assert not snapshotter.has_layer(digest(b""))
    with pytest.raises(NotFound):
        snapshotter.layer_info(digest(b""))


@pytest.mark.parametrize("compression", ["gzip", "gzip members", "zstd", "zstd frames"])
def test_compressed_layers(snapshotter, compression):
    kind, _, parts = compression.partition(" ")
    pack = gzip.compress if kind == "gzip" else zstandard.ZstdCompressor().compress
    blob = pack(REAL[:3000]) + pack(REAL[3000:]) if parts else pack(REAL)
    snapshotter.ingest(io.BytesIO(blob), compression=kind, diff_id=digest(REAL))
    snapshotter.assemble("x", None, digest(REAL))
    assert "bin/tool" in seen(snapshotter, "x")


def test_ingest_again_reads_through_and_keeps(snapshotter):
    first = snapshotter.ingest(io.BytesIO(REAL), compression="none", diff_id=digest(REAL))
    stream = io.BytesIO(REAL)
    assert snapshotter.ingest(stream, compression="none", diff_id=digest(REAL)) == first
    assert stream.tell() == len(REAL)


def test_parallel_ingest_of_one_layer(snapshotter):
    errors = []

    def work() -> None:
        try:
            snapshotter.ingest(io.BytesIO(REAL), compression="none", diff_id=digest(REAL))
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert errors == []
    no_temporaries(snapshotter)
    assert "bin/tool" in seen(snapshotter, put(snapshotter, REAL))


def test_ingest_in_a_forked_worker_is_seen_here(snapshotter):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            snapshotter.ingest(io.BytesIO(REAL), compression="none", diff_id=digest(REAL))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    snapshotter.assemble("x", None, digest(REAL))
    assert "bin/tool" in seen(snapshotter, "x")


BASE = tar(
    "etc/",
    ("etc/a", b"base a"),
    ("etc/b", b"base b"),
    "opt/",
    "opt/x/",
    ("opt/x/1", b"1"),
    ("opt/2", b"2"),
    ("f", b"f"),
)
UPPER = tar(
    "etc/",
    ("etc/a", b"upper a"),
    "etc/.wh.b",
    "opt/",
    "opt/.wh..wh..opq",
    ("opt/new", b"new"),
    directory("f"),
    ("f/inside", b"now a directory"),
)


def test_stacking_whiteouts_and_opaque(snapshotter):
    top = put(snapshotter, BASE, UPPER)
    tree = seen(snapshotter, top)
    assert sorted(tree) == ["", "etc", "etc/a", "f", "f/inside", "opt", "opt/new"]
    with opened(snapshotter.view("v", top)) as path:
        assert Path(path, "etc/a").read_bytes() == b"upper a"


def test_whiteouts_of_nothing_do_not_show(snapshotter):
    only = tar("d/", "d/.wh.gone", ".wh.also", "e/", "e/.wh..wh..opq", "e/.wh.x", "e/y", ".wh..wh.plnk/")
    assert sorted(seen(snapshotter, put(snapshotter, only))) == ["", "d", "e", "e/y"]
    assert sorted(seen(snapshotter, put(snapshotter, tar("z"), only))) == ["", "d", "e", "e/y", "z"]


@pytest.mark.parametrize("order", ["whiteout first", "directory first"])
def test_directory_deleted_and_made_again_is_empty(snapshotter, order):
    lower = tar("d/", ("d/old", b""), ("d/sub/deep", b""))
    items = [".wh.d", "d/", ("d/new", b"")]
    if order == "directory first":
        items = items[1:] + items[:1]
    assert sorted(seen(snapshotter, put(snapshotter, lower, tar(*items)))) == ["", "d", "d/new"]


def test_last_entry_of_a_path_wins(snapshotter):
    twice = tar(
        ("a", b"first"),
        ("a", b"second"),
        "d/",
        ("d/kept", b""),
        directory("d", mode=0o700),
        "e/",
        ("e/gone", b""),
        ("e", b"now a file"),
        symlink("s", "d"),
        ("s", b"no link"),
        ("g", b"no directory"),
        directory("g"),
    )
    tree = seen(snapshotter, put(snapshotter, twice))
    assert sorted(tree) == ["", "a", "d", "d/kept", "e", "g", "s"]
    assert tree["a"][3][0] == 6
    assert tree["d"][0] == oct(0o40700)
    assert tree["e"][3][0] == 10
    assert tree["s"][3][0] == 7


def test_names_are_normalised_and_links_followed_inside(snapshotter):
    odd = tar(
        "./x//y/",
        ("/x/./y/f", b"1"),
        symlink("in", "/x"),
        ("in/y/g", b"2"),
        symlink("up", "../../../x"),
        ("up/h", b"3"),
    )
    tree = seen(snapshotter, put(snapshotter, odd))
    assert {"x/y/f", "x/y/g", "x/h"} <= set(tree)
    assert tree["in"][3] == "/x"


def test_implicit_parents_take_what_is_below(snapshotter):
    lower = tar(
        directory("var", mode=0o700, uid=5, gid=6), directory("var/lib", mode=0o2770, uid=7, gid=8), ("var/lib/a", b"")
    )
    upper = tar(("var/lib/sub/b", b""))
    tree = seen(snapshotter, put(snapshotter, lower, upper))
    assert tree["var"][:3] == (oct(0o40700), 5, 6)
    assert tree["var/lib"][:3] == (oct(0o42770), 7, 8)
    assert tree["var/lib/sub"][:3] == (oct(0o40755), 0, 0)
    assert tree["var"][4] == tree["var/lib"][4] == 1_600_000_000 * 10**9
    assert "var/lib/a" in tree


def test_implicit_parent_that_is_a_link_below(snapshotter):
    lower = tar("usr/", "usr/lib/", ("usr/lib/libc", b"c"), symlink("lib", "usr/lib"))
    upper = tar(("lib/libnew", b"new"))
    tree = seen(snapshotter, put(snapshotter, lower, upper))
    assert tree["lib"][3] == "usr/lib"
    assert {"usr/lib/libc", "usr/lib/libnew"} <= set(tree)


def test_root_attributes(snapshotter):
    name = put(snapshotter, tar(directory(".", mode=0o750, uid=9, gid=10), "a"), tar("b"))
    assert seen(snapshotter, name)[""][:3] == (oct(0o40750), 9, 10)
    with opened(snapshotter.prepare("c", name)) as path:
        assert look(path)[""][:3] == (oct(0o40750), 9, 10)


def test_sparse_file(snapshotter, place):
    with open(f"{place}/holes", "wb") as f:
        for at in (0, 5 << 20, (64 << 20) + 5):
            f.seek(at)
            f.write(os.urandom(3000))
        f.truncate(200 << 20)
    want = look(place)["holes"]
    for how in ("gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix --sparse-version=1.0"):
        data = subprocess.run(
            ["tar", "-cSf", "-", *f"--format={how}".split(), "-C", place, "holes"], capture_output=True, check=True
        ).stdout
        assert len(data) < 1 << 20
        info = snapshotter.ingest(io.BytesIO(data), compression="none", diff_id=digest(data))
        assert info.size_bytes < 8 << 20
        snapshotter.assemble(how, None, digest(data))
        with opened(snapshotter.view(f"v{how}", how)) as path:
            assert os.lstat(f"{path}/holes").st_size == 200 << 20
            assert subprocess.run(["cmp", f"{path}/holes", f"{place}/holes"], check=False).returncode == 0
        snapshotter.remove(f"v{how}")
    assert want


def test_a_writable_snapshot_and_its_end(snapshotter, fresh):
    name = put(snapshotter, BASE)
    mounts = snapshotter.prepare("c", name, labels={"k": "v"})
    assert len(mounts) == 1
    with opened(mounts) as path:
        Path(path, "etc/a").write_bytes(b"mine")
        os.unlink(f"{path}/f")
    with opened(fresh(snapshotter).mounts("c")) as path:
        assert Path(path, "etc/a").read_bytes() == b"mine"
        assert not os.path.exists(f"{path}/f")
    assert snapshotter.usage("c").inodes >= 1
    assert "f" in seen(snapshotter, name)
    snapshotter.remove("c")
    with pytest.raises(NotFound):
        snapshotter.mounts("c")
    no_temporaries(snapshotter)


def test_empty_parent(snapshotter):
    with opened(snapshotter.prepare("c", None)) as path:
        Path(path, "x").touch()
    snapshotter.commit("n", "c")
    assert sorted(seen(snapshotter, "n")) == ["", "x"]
    with opened(snapshotter.view("v", None)) as path:
        assert os.listdir(path) == []
        with pytest.raises(OSError, match="Read-only"):
            Path(path, "y").touch()


def test_view_is_read_only(snapshotter):
    with opened(snapshotter.view("v", put(snapshotter, BASE))) as path:
        with pytest.raises(OSError, match="Read-only"):
            Path(path, "y").touch()
    assert snapshotter.upper("v") is None


def test_commit_makes_a_parent(snapshotter):
    base = put(snapshotter, BASE)
    with opened(snapshotter.prepare("c", base)) as path:
        os.unlink(f"{path}/etc/b")
        Path(path, "etc/c").write_bytes(b"c")
    snapshotter.commit("n", "c", labels={"a": "b"})
    info = snapshotter.stat("n")
    assert (info.kind, info.parent, info.labels) == (KIND_COMMITTED, base, {"a": "b"})
    with pytest.raises(NotFound):
        snapshotter.stat("c")
    with opened(snapshotter.prepare("c2", "n")) as path:
        assert sorted(os.listdir(f"{path}/etc")) == ["a", "c"]
    with pytest.raises(Conflict):
        snapshotter.remove("n")
    snapshotter.remove("c2")
    snapshotter.remove("n")


def test_names_and_kinds(snapshotter):
    base = put(snapshotter, BASE)
    snapshotter.prepare("a", base)
    snapshotter.view("v", base)
    for key in ("a", "v", base):
        with pytest.raises(AlreadyExists):
            snapshotter.prepare(key, base)
    assert {i.name: i.kind for i in snapshotter.walk()} == {"a": KIND_ACTIVE, "v": KIND_VIEW, base: KIND_COMMITTED}
    assert snapshotter.chain(base) == [digest(BASE)]
    for call in (
        lambda: snapshotter.prepare("x", "none"),
        lambda: snapshotter.stat("none"),
        lambda: snapshotter.usage("none"),
        lambda: snapshotter.remove("none"),
        lambda: snapshotter.commit("y", "none"),
        lambda: snapshotter.chain("none"),
        lambda: snapshotter.assemble("y", None, digest(b"none")),
        lambda: snapshotter.assemble("y", "none", digest(BASE)),
        lambda: snapshotter.remove_layer(digest(b"none")),
    ):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(FailedPrecondition):
        snapshotter.commit("y", "v")
    with pytest.raises(FailedPrecondition):
        snapshotter.prepare("y", "a")
    with pytest.raises(AlreadyExists):
        snapshotter.commit("v", "a")
    with pytest.raises(InvalidArgument):
        snapshotter.prepare("", base)


def test_odd_keys(snapshotter):
    base = put(snapshotter, BASE)
    for key in ("../../../etc", "a/b", "x" * 5000, "ü\n", ".", "a,b:c"):
        with opened(snapshotter.prepare(key, base)) as path:
            assert os.path.exists(f"{path}/etc/a")
        assert snapshotter.stat(key).name == key
        snapshotter.remove(key)


def test_layers_are_kept_while_used(snapshotter):
    name = put(snapshotter, BASE)
    with pytest.raises(Conflict):
        snapshotter.remove_layer(digest(BASE))
    snapshotter.prepare("c", name)
    with pytest.raises(Conflict):
        snapshotter.remove(name)
    snapshotter.remove("c")
    snapshotter.remove(name)
    snapshotter.remove_layer(digest(BASE))
    assert not snapshotter.has_layer(digest(BASE))
    snapshotter.cleanup()
    assert os.listdir(f"{snapshotter.directory}/layers") == []
    no_temporaries(snapshotter)


def test_assemble_again_is_fine_and_never_something_else(snapshotter):
    name = put(snapshotter, BASE)
    snapshotter.assemble(name, None, digest(BASE))
    other = put(snapshotter, UPPER)
    with pytest.raises(Conflict):
        snapshotter.assemble(name, other, digest(BASE))


def test_below_shows_the_parent(snapshotter):
    base = put(snapshotter, BASE)
    with opened(snapshotter.prepare("c", base)) as path:
        os.unlink(f"{path}/f")
    with opened(snapshotter.below("c")) as path:
        assert os.path.exists(f"{path}/f")
    snapshotter.prepare("e", None)
    with opened(snapshotter.below("e")) as path:
        assert os.listdir(path) == []


def test_many_layers(snapshotter):
    count = 40 if snapshotter.name != "native" else 5
    layers = [tar((f"f{i}", str(i).encode())) for i in range(count)]
    name = put(snapshotter, *layers)
    assert snapshotter.chain(name) == [digest(layer) for layer in layers]
    assert len(seen(snapshotter, name)) == count + 1


def test_size_limit_is_kept_or_refused(snapshotter):
    name = put(snapshotter, BASE)
    try:
        mounts = snapshotter.prepare("c", name, max_size_bytes=8 << 20)
    except Unsupported:
        with pytest.raises(NotFound):
            snapshotter.stat("c")
        return
    with opened(mounts) as path, pytest.raises(OSError, match=r"quota|space"):
        Path(path, "big").write_bytes(bytes(9 << 20))


def test_disk_full_leaves_nothing(request, place):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=True)
    try:
        big = tar(("big", os.urandom(20 << 20)))
        for name in NAMES:
            s = open_snapshotter(name, f"{place}/root", f"{place}/run")
            with pytest.raises(ResourceExhausted):
                s.ingest(io.BytesIO(big), compression="none", diff_id=digest(big))
            assert os.listdir(f"{s.directory}/layers") == []
            no_temporaries(s)
            s.ingest(io.BytesIO(BASE), compression="none", diff_id=digest(BASE))
    finally:
        subprocess.run(["umount", place], check=True)


def test_wrong_digest_leaves_nothing(snapshotter):
    with pytest.raises(DataLoss, match="its tar is"):
        snapshotter.ingest(io.BytesIO(BASE), compression="none", diff_id=digest(b"other"))
    assert os.listdir(f"{snapshotter.directory}/layers") == []
    no_temporaries(snapshotter)


def test_ladder_probes_and_says_why(place):
    probes = {p.name: p for p in probe_all(f"{place}/root", f"{place}/run")}
    assert list(probes) == list(NAMES)
    assert probes["native"].ok
    assert all(p.reason for p in probes.values())
    chosen, tried = choose(f"{place}/root", f"{place}/run", None)
    assert chosen.name == next(p.name for p in probes.values() if p.ok)
    assert tried[-1].ok
    assert choose(f"{place}/root", f"{place}/run", "native")[0].name == "native"
    with pytest.raises(InvalidArgument):
        choose(f"{place}/root", f"{place}/run", "zfs")


def test_opening_while_another_process_cleans_up(snapshotter, fresh):
    """What prepare has returned must be mountable, whoever releases idle layers meanwhile."""
    base = put(snapshotter, BASE)
    other, stop, errors = fresh(snapshotter), threading.Event(), []

    def clean() -> None:
        while not stop.is_set():
            try:
                other.cleanup()
                other.close()
            except BaseException as e:
                errors.append(e)
                return

    thread = threading.Thread(target=clean)
    thread.start()
    try:
        for i in range(30):
            with opened(snapshotter.prepare(f"c{i}", base)) as path:
                assert os.path.exists(f"{path}/etc/a")
            snapshotter.remove(f"c{i}")
    finally:
        stop.set()
        thread.join()
    assert errors == []


def test_a_record_torn_by_a_power_cut_is_swept(snapshotter):
    base = put(snapshotter, BASE)
    snapshotter.prepare("c", base)
    record = next(
        p for p in Path(snapshotter.directory, "entries").glob("*/meta.json") if b'"active"' in p.read_bytes()
    )
    record.write_bytes(b"")
    with pytest.raises(DataLoss):
        snapshotter.stat("c")
    snapshotter.cleanup()
    assert [i.name for i in snapshotter.walk()] == [base]
    snapshotter.prepare("c", base)


def test_native_works_on_overlayfs_and_the_ladder_gets_there(place):
    for name in ("lower", "upper", "work", "on"):
        os.mkdir(f"{place}/{name}")
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", f"{place}/on"], check=True)
    try:
        s, tried = choose(f"{place}/on/root", f"{place}/run", None)
        assert [(p.name, p.ok) for p in tried] == [("erofs", False), ("overlay", False), ("native", True)]
        base = put(s, BASE, UPPER)
        assert sorted(seen(s, base)) == ["", "etc", "etc/a", "f", "f/inside", "opt", "opt/new"]
        with opened(s.prepare("c", base)) as path:
            os.unlink(f"{path}/etc/a")
        s.commit("n", "c")
        assert "etc/a" not in seen(s, "n")
        s.remove("n")
        with pytest.raises(FailedPrecondition, match="erofs"):
            choose(f"{place}/on/root", f"{place}/run", "erofs")
    finally:
        subprocess.run(["umount", f"{place}/on"], check=True)
