# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wharfie.content.local import open_store
from wharfie.metadata import Ref, gc
from wharfie.metadata.leases import Leases
from wharfie.metadata.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    s = Store(str(tmp_path / "metadata.db"))
    s.open()
    yield s
    s.close()


def test_only_what_nobody_keeps_goes(store: Store, tmp_path: Path) -> None:
    content = open_store(str(tmp_path / "content"))
    kept, dead = content.put(b"kept"), content.put(b"dead")
    leases = Leases(store, "default")
    leases.create("l")
    leases.add("l", [Ref("blob", kept)])
    done = gc.collect(store, content, [])
    assert (done.blobs, done.freed_bytes) == (1, 4)
    assert content.has(kept)
    assert not content.has(dead)
    leases.delete("l")
    assert gc.collect(store, content, []).blobs == 1
    assert not content.has(kept)


def test_a_lease_that_is_taken_during_a_collection_is_honoured(store: Store, tmp_path: Path) -> None:
    """Whoever names a blob in a lease and then finds it there may use it, whenever the collector runs."""
    content = open_store(str(tmp_path / "content"))
    leases = Leases(store, "default")
    stop = threading.Event()

    def collect() -> None:
        while not stop.is_set():
            gc.collect(store, content, [])

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        for n in range(60):
            data = f"blob {n % 5}".encode()
            digest = content.put(data)
            with leases.hold("use") as lease:
                lease.add([Ref("blob", digest)])
                if not content.has(digest):
                    content.put(data)
                for _ in range(3):
                    assert content.read(digest, max_bytes=100) == data
    finally:
        stop.set()
        thread.join()


def test_dead_partial_downloads(store: Store, tmp_path: Path) -> None:
    content = open_store(str(tmp_path / "content"))
    present, absent = content.put(b"present"), "sha256:" + "0" * 64
    for ref in (f"layer-{present}", f"layer-{absent}", "load-0123"):
        writer = content.writer(ref, total_bytes=100)
        writer.write(b"part")
        writer.close()
    assert gc.drop_dead_ingests(content) == 2
    assert [s.ref for s in content.ingests()] == [f"layer-{absent}"]
