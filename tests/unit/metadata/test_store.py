# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wharfie.errdefs import Conflict, DataLoss, FailedPrecondition, NotFound
from wharfie.metadata import Ref, containers, refs
from wharfie.metadata.images import Images
from wharfie.metadata.leases import LABEL_PROCESS, Leases, drop_interrupted
from wharfie.metadata.store import Store
from wharfie.spec.image import Descriptor


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    s = Store(str(tmp_path / "db/metadata.db"))
    s.open()
    yield s
    s.close()


def target(digit: str) -> Descriptor:
    return Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=f"sha256:{digit * 64}", size=1)


def row(id_: str, name: str | None = None) -> containers.ContainerRow:
    return containers.ContainerRow(
        "default", id_, name, "image", "runtime", "erofs", id_, {"a": "b"}, {"x": b"{}"}, time.time()
    )


def test_a_failing_write_undoes_itself_alone(store: Store) -> None:
    gate = threading.Event()
    first = store.submit(lambda db: gate.wait(5))  # the three below are one transaction, behind this one
    good = store.submit(lambda db: refs.add(db, "n", Ref("lease", "1"), [Ref("blob", "good")]))

    def fail(db: sqlite3.Connection) -> None:
        refs.add(db, "n", Ref("lease", "2"), [Ref("blob", "bad")])
        raise Conflict("no")

    bad = store.submit(fail)
    late = store.submit(lambda db: refs.add(db, "n", Ref("lease", "3"), [Ref("blob", "late")]))
    gate.set()
    assert first.result(5)
    good.result(5)
    late.result(5)
    with pytest.raises(Conflict):
        bad.result(5)
    assert refs.kept(store.reader()) == {"blob": {"good", "late"}}


def test_a_lone_failing_write_leaves_nothing(store: Store) -> None:
    def fail(db: sqlite3.Connection) -> None:
        refs.add(db, "n", Ref("lease", "2"), [Ref("blob", "bad")])
        raise Conflict("no")

    with pytest.raises(Conflict):
        store.write(fail)
    assert refs.kept(store.reader()) == {}
    store.write(lambda db: refs.add(db, "n", Ref("lease", "3"), [Ref("blob", "next")]), durable=True)
    assert refs.kept(store.reader()) == {"blob": {"next"}}


def test_readers_see_commits_and_cannot_write(store: Store) -> None:
    store.write(lambda db: containers.insert(db, row("1" * 64, "n"), []))
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(len(containers.load_all(store.reader()))))
    thread.start()
    thread.join()
    assert seen == [1]
    with pytest.raises(sqlite3.OperationalError):
        store.reader().execute("DELETE FROM containers")


def test_what_was_committed_survives_a_kill(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from wharfie.metadata.store import Store\n"
        "from wharfie.metadata import refs, Ref\n"
        "s = Store(sys.argv[1]); s.open()\n"
        "for n in range(50):\n"
        "    s.write(lambda db: refs.add(db, 'n', Ref('lease', str(n)), [Ref('blob', str(n))]))\n"
        "    print(n, flush=True)\n"
        "s.submit(lambda db: os.kill(os.getpid(), 9))\n"
        "import time; time.sleep(5)\n"
    )
    path = tmp_path / "metadata.db"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    store = Store(str(path))
    store.open()
    assert len(refs.kept(store.reader())["blob"]) == 50
    store.close()


def test_registered_tables_are_migrated_step_by_step(tmp_path: Path) -> None:
    path = str(tmp_path / "m.db")
    steps = ["CREATE TABLE things (a TEXT)", "ALTER TABLE things ADD COLUMN b INTEGER DEFAULT 7"]
    old = Store(path)
    old.register("things", steps[:1])
    old.open()
    old.write(lambda db: db.execute("INSERT INTO things VALUES ('x')"))
    old.close()
    new = Store(path)
    new.register("things", steps)
    new.open()
    assert new.reader().execute("SELECT a, b FROM things").fetchall() == [("x", 7)]
    new.close()
    again = Store(path)
    again.register("things", steps[:1])
    with pytest.raises(FailedPrecondition, match="version 2"):
        again.open()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    path.write_bytes(b"this is not a database, but long enough to look like one" * 40)
    with pytest.raises(DataLoss, match=str(path)):
        Store(str(path)).open()


def test_names_of_containers_are_unique_in_their_namespace(store: Store) -> None:
    store.write(lambda db: containers.insert(db, row("1" * 64, "n"), []))
    with pytest.raises(Conflict):
        store.write(lambda db: containers.insert(db, row("2" * 64, "n"), []))
    store.write(lambda db: containers.insert(db, row("2" * 64, "n")._replace(ns="other"), []))
    store.write(lambda db: containers.insert(db, row("3" * 64, "m"), [Ref("snapshot", "c")]))
    with pytest.raises(Conflict):
        store.write(lambda db: containers.rename(db, "default", "3" * 64, "n"))
    assert store.write(lambda db: containers.delete(db, "default", "3" * 64))
    assert refs.kept(store.reader()) == {}
    found = containers.load_all(store.reader())
    assert [c.name for c in found] == ["n", "n"]
    assert found[0].labels == {"a": "b"}
    assert found[0].extensions == {"x": b"{}"}


def test_an_image_that_loses_its_name_dangles_and_keeps_its_things(store: Store) -> None:
    images = Images(store, "default")
    images.put("a:1", target("1"), refs=[Ref("blob", "one")])
    images.put("a:1", target("2"), refs=[Ref("blob", "two")])
    assert [i.name for i in images.list()] == [f"<none>@{target('1').digest}", "a:1"]
    assert refs.kept(store.reader())["blob"] == {"one", "two"}
    images.put("b:1", target("1"), refs=[Ref("blob", "one")])
    assert [i.name for i in images.list()] == ["a:1", "b:1"]
    images.put("b:2", target("1"), refs=[Ref("blob", "one")])
    images.put("b:1", target("2"), refs=[Ref("blob", "two")])  # b:2 still has the old target
    assert [i.name for i in images.list()] == ["a:1", "b:1", "b:2"]
    images.delete("b:2")
    assert refs.kept(store.reader())["blob"] == {"two"}
    with pytest.raises(NotFound):
        images.delete("b:2")
    assert Images(store, "other").list() == []


def test_leases_end_with_their_context_and_with_their_process(store: Store) -> None:
    leases = Leases(store, "default")
    with pytest.raises(RuntimeError), leases.hold("pull x") as lease:
        lease.add([Ref("blob", "held")])
        assert refs.kept(store.reader()) == {"blob": {"held"}}
        raise RuntimeError
    assert refs.kept(store.reader()) == {}
    leases.create("y", labels={LABEL_PROCESS: "1"})  # as a killed process leaves it
    leases.add("y", [Ref("blob", "interrupted")])
    leases.create("kept")
    leases.add("kept", [Ref("blob", "kept")])
    leases.create("old", expires_s=10.0)
    assert drop_interrupted(store, time.time()) == 2
    assert [r.id for r in leases.list()] == ["kept"]
    assert refs.kept(store.reader()) == {"blob": {"kept"}}
    with pytest.raises(NotFound):
        leases.add("y", [Ref("blob", "late")])
