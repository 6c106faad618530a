# SPDX-License-Identifier: Apache-2.0
"""Random layers: what comes out of a snapshotter is what tar(1) extracts; and no bytes do anything but DataLoss."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.trees import device, digest, directory, hardlink, look, member, seen, symlink, tar
from wharfie.archive.compression import inflate
from wharfie.archive.entry import DIRECTORY, HARDLINK, REGULAR, SYMLINK, Entry
from wharfie.archive.scan import Scanner
from wharfie.archive.write import Writer
from wharfie.errdefs import DataLoss, ResourceExhausted
from wharfie.snapshots.erofs.image import BLOCK_BYTES
from wharfie.snapshots.ladder import open_snapshotter
from wharfie.snapshots.tree import Tree

FEW = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

# Few different names, so that paths meet; some that need PAX or many directory blocks.
NAMES = st.sampled_from(["a", "b", "c", "-x", ".hidden", "größe", "n" * 120, "with space", "\n"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
SIZES = st.one_of(st.integers(0, 30), st.sampled_from([511, 512, 513, 4095, 4096, 4097, 8192, 70_000]))
OWNERS = st.sampled_from([0, 1, 1000, 65_535, 65_536, 3_000_000_000])
TIMES = st.one_of(st.integers(-(2**31), 2**33), st.sampled_from([0.5, -1.25, 1_600_000_000.123]))
COMMON = st.fixed_dictionaries({"uid": OWNERS, "gid": OWNERS, "mtime": TIMES, "mode": st.integers(0, 0o7777)})
XATTRS = st.dictionaries(
    st.sampled_from(["user.a", "user.long" + "g" * 100, "trusted.t"]), st.text("xyz=\n", max_size=40), max_size=3
)


@st.composite
def trees(draw) -> list:
    """Items of a tar in an order that every extractor understands: parents first, each path once."""
    items: list = []
    kinds: dict[str, str] = {}
    for path in draw(st.lists(PATHS, max_size=14, unique=True)):
        parts = path.split("/")
        parents = ["/".join(parts[:i]) for i in range(1, len(parts))]
        if any(kinds.get(p, "d") != "d" for p in parents) or path in kinds:
            continue
        for p in parents:
            if p not in kinds:
                kinds[p] = "d"
                items.append(directory(p, **draw(COMMON)))
        kind = draw(st.sampled_from("dffflshpc"))
        files = [p for p, k in kinds.items() if k == "f"]
        if kind == "h" and not files:
            kind = "f"
        kinds[path] = kind
        fields = draw(COMMON)
        if kind == "d":
            items.append(directory(path, **fields))
        elif kind == "f":
            items.append((member(path, xattrs=draw(XATTRS), **fields), os.urandom(draw(SIZES))))
        elif kind in "ls":
            fields.pop("mode")
            items.append(symlink(path, draw(st.sampled_from(["a", "../b", "/c/d", "x" * 300, "y" * 4090])), **fields))
        elif kind == "h":
            items.append(hardlink(path, draw(st.sampled_from(files))))
        elif kind == "p":
            items.append(member(path, type=tarfile.FIFOTYPE, **fields))
        else:
            items.append(
                device(path, tarfile.CHRTYPE, draw(st.integers(1, 4095)), draw(st.integers(0, 1 << 19)), **fields)
            )
    return items


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("name", ["erofs", "overlay", "native"])
@FEW
@given(items=trees())
def test_a_layer_is_what_tar_extracts(name, items):
    data = tar(directory("."), *items)
    with tempfile.TemporaryDirectory(prefix="wharfie-prop.", dir="/var/tmp") as place:
        s = open_snapshotter(name, f"{place}/root", f"{place}/run")
        s.ingest(io.BytesIO(data), compression="none", diff_id=digest(data))
        s.assemble("x", None, digest(data))
        got = seen(s, "x")
        if name == "erofs" and shutil.which("fsck.erofs"):
            image = f"{s.directory}/layers/{digest(data)[7:]}.erofs"
            subprocess.run(["fsck.erofs", image], check=True, capture_output=True)
        s.close()
        os.mkdir(f"{place}/plain")
        subprocess.run(
            [
                "tar",
                "-xpf",
                "-",
                "--xattrs",
                "--xattrs-include=*",
                "--numeric-owner",
                "--delay-directory-restore",
                "-C",
                f"{place}/plain",
            ],
            input=data,
            check=True,
            capture_output=True,
        )
        assert got == look(f"{place}/plain")


def scan(data: bytes, chunk: int) -> list[Entry]:
    tree = Tree()
    found = []
    chunks = (data[i : i + chunk] for i in range(0, len(data), chunk))
    for entry in Scanner(chunks):
        tree.add(entry)
        found.append(entry)
    return found


@MANY
@given(items=trees(), seed=st.data())
def test_broken_tars_are_data_loss(items, seed):
    data = bytearray(tar(*items))
    for _ in range(seed.draw(st.integers(1, 6))):
        at = seed.draw(st.integers(0, len(data) - 1))
        how = seed.draw(st.sampled_from(["flip", "cut", "digits", "drop", "fix"]))
        if how == "flip":
            data[at] ^= seed.draw(st.integers(1, 255))
        elif how == "cut":
            del data[at:]
        elif how == "digits":
            data[at : at + 12] = b"77777777777\0"[: len(data) - at]
        elif how == "drop":
            del data[at : at + 512]
        else:  # make a header's sum right again, so that what is in it counts
            start = at // 512 * 512
            if len(data) >= start + 512:
                data[start + 148 : start + 156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
        if not data:
            break
    try:
        scan(bytes(data), seed.draw(st.sampled_from([1 << 20, 1000, 512, 7])))
    except (DataLoss, ResourceExhausted):
        pass


@MANY
@given(data=st.binary(max_size=2000), kind=st.sampled_from(["gzip", "zstd", "none"]))
def test_rubbish_is_data_loss(data, kind):
    try:
        for _ in Scanner(inflate(io.BytesIO(data), kind)):
            pass
    except (DataLoss, ResourceExhausted):
        pass


@MANY
@given(items=trees(), chunk=st.sampled_from([7, 511, 512, 513, 4096]))
def test_chunks_do_not_matter(items, chunk):
    data = tar(*items)
    whole, parts = scan(data, 1 << 30), scan(data, chunk)
    assert [vars_of(e) for e in whole] == [vars_of(e) for e in parts]


def vars_of(entry: Entry) -> tuple:
    return tuple(getattr(entry, name) for name in Entry.__slots__)


ENTRIES = st.builds(
    lambda path, kind, mode, uid, gid, size, s, ns, link, xattrs: Entry(
        *(b"/".join(path[:-1]), path[-1]),
        kind,
        0o777 if kind == SYMLINK else mode,
        uid,
        gid,
        size if kind == REGULAR else 0,
        s,
        ns,
        link if kind in {SYMLINK, HARDLINK} else b"",
        (0, 0),
        xattrs or None,
    ),
    st.lists(
        st.binary(min_size=1, max_size=120).map(lambda b: b"x" + b.replace(b"/", b"_").replace(b"\0", b"_")),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([REGULAR, DIRECTORY, SYMLINK, HARDLINK]),
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 2),
    st.integers(0, 2**32 - 2),
    st.integers(0, 3 * BLOCK_BYTES),
    st.integers(-(2**40), 2**40),
    st.integers(0, 999_999_999),
    st.binary(min_size=1, max_size=200).map(lambda b: b"t" + b.replace(b"\0", b"_").replace(b"/", b"_")),
    st.dictionaries(st.sampled_from([b"user.a", b"user.b"]), st.binary(max_size=100), max_size=2),
)


@MANY
@given(entries=st.lists(ENTRIES, max_size=6))
def test_what_is_written_is_read(entries):
    out = bytearray()
    writer = Writer(out.extend)
    for entry in entries:
        writer.add(entry, [bytes(entry.size)])
    writer.close()
    got = list(Scanner([bytes(out)]))
    assert [vars_of(e) for e in got] == [vars_of(e) for e in entries]
    # And by others.
    with tarfile.open(fileobj=io.BytesIO(bytes(out))) as t:
        assert [m.name.encode("utf-8", "surrogateescape") for m in t] == [e.path for e in entries]
