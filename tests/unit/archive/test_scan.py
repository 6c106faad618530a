# SPDX-License-Identifier: Apache-2.0
"""Header forms one by one, and what the scanner refuses."""

from __future__ import annotations

import gzip
import io

import pytest

from harness.trees import member, tar
from wharfie.archive.compression import detect, inflate
from wharfie.archive.entry import DIRECTORY, REGULAR, Entry
from wharfie.archive.scan import Scanner
from wharfie.errdefs import DataLoss, InvalidArgument, ResourceExhausted


def block(name: bytes = b"f", flag: bytes = b"0", size: int = 0, **fields: bytes) -> bytes:
    """A header by hand; `fields` overwrite bytes by offset (`at124=…`)."""
    raw = bytearray(512)
    raw[: len(name)] = name
    raw[100:108] = b"0000644\0"
    raw[124:136] = b"%011o\0" % size
    raw[136:148] = b"%011o\0" % 5
    raw[156:157] = flag
    raw[257:265] = b"ustar\00000"
    for at, value in fields.items():
        start = int(at[2:])
        raw[start : start + len(value)] = value
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def pax(*records: bytes, flag: bytes = b"x") -> bytes:
    body = b""
    for record in records:
        length = len(record) + 2
        while len(b"%d" % length) + len(record) + 2 != length:
            length = len(b"%d" % length) + len(record) + 2
        body += b"%d %s\n" % (length, record)
    return block(b"pax", flag, len(body)) + body + bytes(-len(body) % 512)


def read(data: bytes) -> list[Entry]:
    return list(Scanner([data]))


def one(data: bytes) -> Entry:
    (entry,) = read(data)
    return entry


def test_base_256_numbers():
    entry = one(block(at108=b"\x80\0\0\0\xb2\xd0\x5e\0", at136=b"\xff" * 11 + b"\xfb"))
    assert (entry.uid, entry.mtime_s) == (3_000_000_000, -5)
    with pytest.raises(DataLoss, match="out of range"):
        read(block(at108=b"\xff" * 8))
    with pytest.raises(DataLoss, match="negative"):
        read(block(at124=b"\xff" * 12))
    with pytest.raises(DataLoss, match="out of range"):
        read(block(at124=b"\x80" + b"\x7f" * 11))


@pytest.mark.parametrize("value", [b"0000a44\0", b"-000001\0", b"0x00001\0", b"0_00001\0"])
def test_numbers_that_are_none(value):
    with pytest.raises(DataLoss, match="no number"):
        read(block(at100=value))


def test_empty_and_padded_numbers():
    entry = one(block(at108=b"\0" * 8, at116=b"   17 \0\0"))
    assert (entry.uid, entry.gid) == (0, 15)


def test_checksums():
    good = block(name="ü".encode("latin-1") * 50)
    assert one(good).name == b"\xfc" * 50
    signed = sum(b - 256 if b > 127 else b for b in good[:148] + b" " * 8 + good[156:])
    assert one(good[:148] + b"%06o\0 " % signed + good[156:]).name == b"\xfc" * 50
    for sum_ in (b"000000\0 ", b"        ", b"zzzzzz\0 ", b"-00001\0 "):
        with pytest.raises(DataLoss):
            read(good[:148] + sum_ + good[156:])


def test_global_headers_hold_until_overruled():
    data = (
        pax(b"uid=7", b"mtime=1.5", flag=b"g")
        + block(b"a")
        + pax(b"uid=8")
        + block(b"b")
        + pax(b"uid=", flag=b"g")
        + block(b"c")
    )
    assert [(e.name, e.uid, e.mtime_s, e.mtime_ns) for e in read(data)] == [
        (b"a", 7, 1, 500_000_000), (b"b", 8, 1, 500_000_000), (b"c", 0, 1, 500_000_000),
    ]  # fmt: skip
    many = b"".join(pax(b"k%d=" % i + b"v" * 500_000, flag=b"g") for i in range(4))
    with pytest.raises(ResourceExhausted):
        read(many + block())


@pytest.mark.parametrize(
    "body", [b"5 a=b\n", b"x a=b\n", b"99 a=b\n", b"6 a=bc", b"5 ab\n", b"5 =b\n", b"-6 a=b\n", b"0 a=b\n", b" 6 a=b\n"]
)
def test_malformed_records(body):
    with pytest.raises(DataLoss):
        read(block(b"p", b"x", len(body)) + body.ljust(512, b"\0") + block())


def test_names_from_everywhere():
    assert one(block(b"f" * 100, at345=b"p" * 155)).path == b"p" * 155 + b"/" + b"f" * 100
    # GNU's magic: what is at the prefix's place is something else.
    assert one(block(at257=b"ustar  \0", at345=b"123456")).path == b"f"
    assert one(pax(b"path=" + b"x/" * 200) + block()).path == b"/".join([b"x"] * 200)
    assert one(block(b"L", b"L", 300) + (b"y" * 200 + b"\0").ljust(512, b"\0") + block()).path == b"y" * 200
    assert one(block(b"d/")).kind == DIRECTORY
    for bad in (b"path=a\0b", b"path=" + b"z" * 256, b"path=" + b"a/" * 2100, b"linkpath=../../x"):
        with pytest.raises(DataLoss):
            read(pax(bad) + block(flag=b"1"))
    with pytest.raises(DataLoss):
        read(block(b""))


def test_xattrs_of_both_families():
    entry = one(
        pax(b"SCHILY.xattr.user.a=x=y\n", b"LIBARCHIVE.xattr.user.%62=aGk", b"LIBARCHIVE.xattr.user.a=bm8") + block()
    )
    assert entry.xattrs == {b"user.a": b"x=y\n", b"user.b": b"hi"}
    for bad in (
        b"LIBARCHIVE.xattr.user.b=***",
        b"LIBARCHIVE.xattr.user.%zz=aGk",
        b"SCHILY.xattr.=x",
        b"SCHILY.xattr." + b"k" * 256 + b"=x",
    ):
        with pytest.raises(DataLoss):
            read(pax(bad) + block())


def test_kinds():
    assert len(read(block(b"label", b"V", 600) + bytes(1024) + block())) == 1
    dump = block(b"d", b"D", 3) + b"Yx\0".ljust(512, b"\0") + block()
    assert [e.kind for e in read(dump)] == [DIRECTORY, REGULAR]
    # Links and directories have no data, whatever their size says.
    assert len(read(block(b"d", b"5", 4096) + block(b"l", b"2", 4096, at157=b"x") + block())) == 3
    for flag in (b"M", b"N", b"Z", b"\xff"):
        with pytest.raises(DataLoss, match="unknown type"):
            read(block(flag=flag))
    with pytest.raises(DataLoss, match="device"):
        read(block(flag=b"3", at329=b"\x80\0\0\0\0\0\x10\0"))


def test_ends():
    assert read(b"") == []
    assert read(bytes(512)) == []
    assert len(read(block() + bytes(10_240))) == 1
    assert len(read(block())) == 1
    for bad in (
        block()[:511],
        block(size=5),
        block(size=5) + b"12345",
        bytes(512) + block(),
        pax(b"uid=1"),
        pax(b"uid=1") + bytes(1024),
    ):
        with pytest.raises(DataLoss):
            read(bad)


def test_data_is_handed_over_whole():
    data = tar(("a", b"1" * 1000), ("b", b"2" * 512), ("c", b""))
    for chunk in (1, 100, 512, 1 << 20):
        scanner = Scanner(data[i : i + chunk] for i in range(0, len(data), chunk))
        got = {}
        for entry in scanner:
            parts: list[bytes] = []
            scanner.data(lambda view, parts=parts: parts.append(bytes(view)))
            got[entry.name] = b"".join(parts)
        assert got == {b"a": b"1" * 1000, b"b": b"2" * 512, b"c": b""}


def test_compression_kinds():
    assert detect(gzip.compress(b"")[:4]) == "gzip"
    assert detect(b"\x28\xb5\x2f\xfd") == detect(b"\x5a\x2a\x4d\x18") == "zstd"
    assert detect(tar(member("x"))[:4]) is None
    with pytest.raises(InvalidArgument, match="unknown compression"):
        inflate(io.BytesIO(b""), "xz")


def test_large_runs_come_in_pieces():
    blob = gzip.compress(bytes(5 << 20)) + gzip.compress(b"end") + bytes(100)
    chunks = list(inflate(io.BytesIO(blob), "gzip"))
    assert max(map(len, chunks)) <= 1 << 20
    assert b"".join(chunks) == bytes(5 << 20) + b"end"


def test_without_isal_it_is_the_same(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "isal", None)
    blob = gzip.compress(b"x" * (3 << 20)) + gzip.compress(b"end")
    assert b"".join(inflate(io.BytesIO(blob), "gzip")) == b"x" * (3 << 20) + b"end"
    with pytest.raises(DataLoss):
        list(inflate(io.BytesIO(blob[:-1]), "gzip"))
