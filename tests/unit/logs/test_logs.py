# SPDX-License-Identifier: Apache-2.0
"""Both log drivers against the same expectations, and what is special to the chunked one."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wharfie.errdefs import InvalidArgument
from wharfie.logs import CAUGHT_UP, DONE, Selection, chunks_writer, open_reader, open_writer


@pytest.fixture(params=["local", "json-file"])
def log(request, tmp_path):
    """(driver, path) of a log that does not exist yet."""
    return request.param, str(tmp_path / "log" / ("" if request.param == "local" else "c.log"))


def read(driver: str, path: str, **selection) -> bytes:
    """Through a socket, as a client gets it."""
    ours, theirs = socket.socketpair()
    got = bytearray()

    def collect() -> None:
        while data := theirs.recv(1 << 20):
            got.extend(data)

    thread = threading.Thread(target=collect)
    thread.start()
    open_reader(driver, path).copy_to(ours.fileno(), Selection(**selection))
    ours.close()
    thread.join()
    theirs.close()
    return bytes(got)


def frames(data: bytes) -> dict[int, bytes]:
    out: dict[int, bytes] = {}
    while data:
        stream, length = struct.unpack(">BxxxI", data[:8])
        assert len(data) >= 8 + length
        out[stream] = out.get(stream, b"") + data[8 : 8 + length]
        data = data[8 + length :]
    return out


def write(driver: str, path: str, *pieces: tuple[int, bytes], **kw) -> None:
    writer = open_writer(driver, path, **kw)
    for stream, data in pieces:
        writer.write(stream, data)
    writer.close()


def test_streams_come_back_apart(log):
    write(*log, (1, b"one\ntw"), (2, b"bad\n"), (1, b"o\n"))
    assert frames(read(*log)) == {1: b"one\ntwo\n", 2: b"bad\n"}
    assert frames(read(*log, stderr=False)) == {1: b"one\ntwo\n"}
    assert frames(read(*log, stdout=False)) == {2: b"bad\n"}
    assert read(*log, multiplexed=False, stderr=False) == b"one\ntwo\n"


def test_missing_log_is_empty(log):
    assert read(*log) == b""
    assert list(open_reader(*log).entries(Selection())) == []


@pytest.mark.parametrize("tail", [0, 1, 2, 3, 7, 8, 100])
def test_tail(log, tail):
    lines = [b"line %d\n" % i for i in range(8)]
    write(*log, *((1, line) for line in lines))
    want = b"".join(lines[len(lines) - min(tail, 8) :])
    assert read(*log, tail=tail, multiplexed=False) == want


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40).map(lambda b: b.translate(bytes(10 if c % 5 == 0 else 97 for c in range(256)))), max_size=12),
    tail=st.integers(0, 14),
)  # fmt: skip
def test_tail_is_what_tail_says(tmp_path_factory, pieces, tail):
    """Pieces cut lines anywhere; the last line need not be whole."""
    path = str(tmp_path_factory.mktemp("log"))
    write("local", path, *((1, p) for p in pieces))
    whole = b"".join(pieces)
    want = b"".join(whole.splitlines(keepends=True)[-tail:]) if tail else b""
    assert read("local", path, tail=tail, multiplexed=False) == want
    assert frames(read("local", path, tail=tail)).get(1, b"") == want


def test_time_stamps_before_each_line(log):
    before = time.time()
    write(*log, (1, b"a\nb\nc"), (1, b"d\n"))
    lines = read(*log, timestamps=True, details="k=v", multiplexed=False).splitlines()
    assert [line.split(b" ", 1)[1] for line in lines] == [b"k=v a", b"k=v b", b"k=v cd"]
    stamp = lines[0].split()[0].decode()
    assert len(stamp) == 30
    assert stamp.endswith("Z")
    assert abs(time.mktime(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone - before) < 5


def test_since_and_until(log):
    writer = open_writer(*log)
    writer.write(1, b"old\n")
    time.sleep(0.01)
    middle = time.time()
    time.sleep(0.01)
    writer.write(1, b"new\n")
    writer.close()
    assert read(*log, since_s=middle, multiplexed=False) == b"new\n"
    assert read(*log, until_s=middle, multiplexed=False) == b"old\n"
    assert read(*log, since_s=middle, until_s=middle, multiplexed=False) == b""
    assert [e.data for e in open_reader(*log).entries(Selection(since_s=middle))] == [b"new\n"]


def test_since_never_begins_inside_a_line(tmp_path):
    writer = open_writer("local", str(tmp_path))
    writer.write(1, b"whole\nhal")
    time.sleep(0.01)
    middle = time.time()
    time.sleep(0.01)
    writer.write(1, b"f\nnext\n")
    writer.close()
    assert read("local", str(tmp_path), since_s=middle, multiplexed=False) == b"next\n"


def test_rotation_keeps_the_newest(log):
    driver, path = log
    write(driver, path, *((1, b"%05d\n" % i) for i in range(2000)), max_size_bytes=8000, max_files=3)
    lines = read(driver, path, multiplexed=False).splitlines()
    assert lines[-1] == b"01999"
    assert lines == [b"%05d" % i for i in range(2000 - len(lines), 2000)]
    directory = Path(path) if driver == "local" else Path(path).parent
    data = [p for p in directory.iterdir() if p.suffix != ".idx"]
    assert len(data) == 3
    assert all(p.stat().st_size <= 8000 for p in data)
    assert read(driver, path, multiplexed=False, tail=900) == b"".join(line + b"\n" for line in lines[-900:])


def test_follow_sees_what_comes_across_rotation(log):
    driver, path = log
    writer = open_writer(driver, path, max_size_bytes=4000, max_files=100)
    copier = writer.copier(Selection(multiplexed=False))
    reader, out = os.pipe()
    got = b""
    want = b""
    for i in range(300):
        piece = b"line %d\n" % i
        want += piece
        writer.write(1, piece)
        while copier.step(out) != CAUGHT_UP:
            pass
        if i % 10 == 9:
            got += os.read(reader, 1 << 16)
    writer.close()
    assert got == want
    copier.close()
    os.close(reader)
    os.close(out)


def test_until_ends_a_follower(log):
    writer = open_writer(*log)
    writer.write(1, b"x\n")
    copier = writer.copier(Selection(until_s=time.time() - 10))
    reader, out = os.pipe()
    assert copier.step(out) in (DONE, "more")
    assert copier.step(out) == DONE
    copier.close()
    writer.close()
    os.close(reader)
    os.close(out)


def test_terminal_log_is_raw(tmp_path):
    path = str(tmp_path)
    write("local", path, (1, b"\x1b[1mhi\r\n"), (1, b"$ "), terminal=True)
    assert (tmp_path / "00000001.log").read_bytes() == b"\x1b[1mhi\r\n$ "
    assert read("local", path, multiplexed=False) == b"\x1b[1mhi\r\n$ "
    assert frames(read("local", path)) == {1: b"\x1b[1mhi\r\n$ "}
    assert read("local", path, multiplexed=False, tail=1) == b"$ "


def test_a_restart_appends(log):
    write(*log, (1, b"first\n"))
    write(*log, (1, b"second\n"))
    assert read(*log, multiplexed=False) == b"first\nsecond\n"


def test_torn_tail_is_cut_at_every_byte(tmp_path):
    """kill -9 in the middle of a write: readers see whole chunks, and the next writer goes on after them."""
    whole = tmp_path / "whole"
    write("local", str(whole), (1, b"one\n"), (2, b"two\n"), (1, b"three\n"))
    data = (whole / "00000001.log").read_bytes()
    index = (whole / "00000001.idx").read_bytes()
    borders = [0, 12, 24, 38]
    texts = [b"", b"one\n", b"one\ntwo\n", b"one\ntwo\nthree\n"]
    rng = random.Random(1)
    for cut in range(len(data) + 1):
        torn = tmp_path / f"torn{cut}"
        torn.mkdir()
        (torn / "00000001.log").write_bytes(data[:cut])
        (torn / "00000001.idx").write_bytes(index[: 16 + rng.randrange(len(index) - 15)])
        want = texts[max(i for i, b in enumerate(borders) if b <= cut)]
        assert read("local", str(torn), multiplexed=False) == want
        write("local", str(torn), (1, b"more\n"))
        assert read("local", str(torn), multiplexed=False) == want + b"more\n"


def test_a_full_disk_loses_log_and_nothing_else(tmp_path, monkeypatch):
    writer = open_writer("local", str(tmp_path))
    writer.write(1, b"kept\n")

    def full(fd, parts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(chunks_writer, "writev", full)
    writer.write(1, b"lost\n")
    monkeypatch.setattr(chunks_writer, "writev", os.writev)
    writer.write(1, b"after\n")
    writer.close()
    assert writer.lost_bytes == 5
    assert read("local", str(tmp_path), multiplexed=False) == b"kept\nafter\n"


def test_json_file_is_dockers_format(tmp_path):
    path = tmp_path / "c.log"
    write("json-file", str(path), (1, b'say "hi"\n'), (2, b"\xff\n"), (1, b"x" * 20000 + b"\n"), (1, b"tail"))
    import json

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [set(line) for line in lines] == [{"log", "stream", "time"}] * 5
    assert lines[0]["log"] == 'say "hi"\n'
    assert lines[1] == {**lines[1], "log": "\ufffd\n", "stream": "stderr"}
    assert [len(line["log"]) for line in lines[2:]] == [16384, 20001 - 16384, 4]


def test_unknown_driver_says_which_there_are():
    with pytest.raises(InvalidArgument, match="unknown log driver 'syslog'"):
        open_writer("syslog", "/nowhere")
    with pytest.raises(InvalidArgument, match="keeps none"):
        open_reader("none", "")


@pytest.mark.slow
def test_200_mb_go_out_in_less_than_a_second(tmp_path):
    writer = open_writer("local", str(tmp_path))
    chunk = b"a line of some eighty characters, as programs write them to their standard outp\n" * 800
    for _ in range(200 * 1024 * 1024 // len(chunk)):
        writer.write(1, chunk)
    writer.close()
    ours, theirs = socket.socketpair()
    total = 0

    def drain() -> None:
        nonlocal total
        buffer = bytearray(1 << 20)
        while n := theirs.recv_into(buffer):
            total += n

    thread = threading.Thread(target=drain)
    started = time.monotonic()
    thread.start()
    open_reader("local", str(tmp_path)).copy_to(ours.fileno(), Selection())
    ours.close()
    thread.join()
    took = time.monotonic() - started
    theirs.close()
    assert total > 200 * 1024 * 1024 * 0.99
    assert took < 1.0, f"{took:.2f} s"
