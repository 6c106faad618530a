# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from wharfie.content.local import LocalStore, open_store
from wharfie.errdefs import DataLoss, InvalidArgument, NotFound, OutOfRange, ResourceExhausted, Unavailable
from wharfie.spec.digest import sha256

DATA = os.urandom(3_000_000)
DIGEST = sha256(DATA)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return open_store(str(tmp_path / "content"))


def files(store: LocalStore) -> set[str]:
    return {str(p.relative_to(store.root)) for p in Path(store.root).rglob("*") if p.is_file()} - {"oci-layout"}


def test_a_blob_appears_whole_and_can_be_read(store: LocalStore) -> None:
    with_writer = store.writer("layer-1", total_bytes=len(DATA), digest=DIGEST)
    with_writer.write(DATA[:1000])
    assert not store.has(DIGEST)
    assert [s.offset for s in store.ingests()] == [1000]
    with_writer.write(memoryview(DATA)[1000:])
    with_writer.commit(len(DATA), DIGEST)
    assert store.read(DIGEST, max_bytes=1 << 23) == DATA
    assert store.info(DIGEST).size_bytes == len(DATA)
    assert [b.digest for b in store.walk()] == [DIGEST]
    assert files(store) == {f"blobs/sha256/{DIGEST[7:]}"}
    assert not os.listdir(f"{store.root}/ingest")
    with os.fdopen(store.open(DIGEST), "rb") as f:
        assert f.read() == DATA
    store.delete(DIGEST)
    with pytest.raises(NotFound):
        store.info(DIGEST)


def test_sha512(store: LocalStore) -> None:
    digest = "sha512:" + hashlib.sha512(DATA).hexdigest()
    w = store.writer("x")  # hash not announced: computed again at commit
    w.write(DATA)
    w.commit(len(DATA), digest)
    assert store.read(digest, max_bytes=1 << 23) == DATA
    assert store.put(b"small", "sha512:" + hashlib.sha512(b"small").hexdigest()).startswith("sha512:")


@pytest.mark.parametrize("wrong", ["digest", "long"])
def test_wrong_bytes_leave_nothing(store: LocalStore, wrong: str) -> None:
    w = store.writer("x", digest=DIGEST)
    w.write(DATA[:-1] + b"!" if wrong == "digest" else DATA + b"!")
    with pytest.raises(DataLoss, match="have the digest" if wrong == "digest" else "more than"):
        w.commit(len(DATA), DIGEST)
    assert files(store) == set()


def test_short_ingest_stays_and_resumes(store: LocalStore) -> None:
    w = store.writer("x", digest=DIGEST)
    w.write(DATA[:2_000_000])
    with pytest.raises(OutOfRange):
        w.commit(len(DATA), DIGEST)
    w.close()
    again = store.writer("x", digest=DIGEST)
    assert again.offset == 2_000_000
    assert b"".join(again.replay()) == DATA[:2_000_000]
    again.write(DATA[2_000_000:])
    again.commit(len(DATA), DIGEST)
    assert store.read(DIGEST, max_bytes=1 << 23) == DATA


def test_resume_without_replay(store: LocalStore) -> None:
    w = store.writer("x", digest=DIGEST)
    w.write(DATA[:10])
    w.close()
    again = store.writer("x", digest=DIGEST)
    assert again.digest() == sha256(DATA[:10])
    again.write(DATA[10:])
    assert again.digest() == DIGEST
    with pytest.raises(InvalidArgument):
        again.replay()
    again.commit(len(DATA), DIGEST)


def test_one_writer_at_a_time(store: LocalStore) -> None:
    w = store.writer("x")
    with pytest.raises(Unavailable, match="another download"):
        open_store(store.root).writer("x")
    with pytest.raises(Unavailable):
        store.abort("x")
    w.close()
    store.abort("x")
    with pytest.raises(NotFound):
        store.abort("x")


def test_kill_at_any_moment_leaves_a_resumable_partial(store: LocalStore) -> None:
    program = (
        "import sys; from wharfie.content.local import open_store\n"
        "w = open_store(sys.argv[1]).writer('x')\n"
        "w.write(b'a' * 5000); print('ready', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", program, store.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == b"ready\n"
    with pytest.raises(Unavailable):
        store.writer("x")
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    store.cleanup()
    w = store.writer("x")
    assert w.offset == 5000
    w.truncate()
    w.write(b"b")
    w.commit(1, sha256(b"b"))


def test_partial_longer_than_the_blob_starts_again(store: LocalStore) -> None:
    w = store.writer("x")
    w.write(b"1234567890")
    w.close()
    assert store.writer("x", total_bytes=5).offset == 0


def test_put_verifies(store: LocalStore) -> None:
    assert store.put(b"doc") == sha256(b"doc")
    assert store.put(b"doc", sha256(b"doc")) == sha256(b"doc")
    with pytest.raises(DataLoss):
        store.put(b"doc", sha256(b"other"))
    with pytest.raises(ResourceExhausted):
        store.read(sha256(b"doc"), max_bytes=2)


def test_read_notices_a_rotten_disk(store: LocalStore) -> None:
    digest = store.put(b"document")
    Path(store.path(digest)).write_bytes(b"documemt")
    with pytest.raises(DataLoss):
        store.read(digest, max_bytes=100)


@pytest.mark.parametrize("digest", ["sha256:../../../../etc/passwd", "sha256:" + "A" * 64, "md5:00", "", "sha256:/"])
def test_digest_is_never_a_path(store: LocalStore, digest: str) -> None:
    """CVE-2024-3727."""
    for call in (store.has, store.open, store.path, store.info, store.delete):
        with pytest.raises(InvalidArgument):
            call(digest)


def test_cleanup_removes_what_has_no_name(store: LocalStore) -> None:
    Path(store.root, "ingest/.put-1-00").write_bytes(b"x")
    Path(store.root, "ingest/abcd").mkdir()
    Path(store.root, "ingest/abcd/data").write_bytes(b"x")
    store.cleanup()
    assert not os.listdir(f"{store.root}/ingest")


@pytest.fixture
def tiny_disk() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as d:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "wh-tiny", d], check=True)
        yield d
        subprocess.run(["umount", d], check=True)


@pytest.mark.root
def test_full_disk_says_so(tiny_disk: str) -> None:
    store = open_store(tiny_disk)
    w = store.writer("x", digest=DIGEST)
    with pytest.raises(ResourceExhausted, match="no space left") as e:
        w.write(DATA)
    assert e.value.hint
    w.discard()
    with pytest.raises(ResourceExhausted):
        store.put(DATA)
    assert files(store) == set()
