# SPDX-License-Identifier: Apache-2.0
"""A pull killed at many moments: whatever is left, the next one completes, and everything in the stores is whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import images
from integration.hostile_registry import Answer, HostileRegistry
from integration.layers_only import Stand
from wharfie.images.walk import open_image, references
from wharfie.snapshots.ladder import choose
from wharfie.spec.digest import chain_id, sha256
from wharfie.spec.reference import parse_reference
from wharfie.transfer.pull import Puller
from wharfie.transfer.unpack import InProcessUnpacker

IMAGE = images.Image([images.make_tar({f"f{n}": os.urandom(600_000), f"d{n}": ("dir", 0o755)}) for n in range(6)])
PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from integration.layers_only import Stand
from wharfie.snapshots.ladder import choose
from wharfie.spec.reference import parse_reference
from wharfie.transfer.pull import Puller
from wharfie.transfer.unpack import InProcessUnpacker
root = {root!r}
stand = Stand(Path(root))
snapshotter, _ = choose(root, root + "/run", "overlay")
puller = Puller(stand.registry, stand.content, snapshotter, InProcessUnpacker(snapshotter))
print("ready", flush=True)
puller.pull(parse_reference({ref!r}), stand.records, stand.leases)
"""


@pytest.fixture
def slow() -> Iterator[HostileRegistry]:
    """A registry that takes its time, so that kills fall into every phase."""
    r = HostileRegistry()

    def piecemeal(answer: Answer) -> None:
        data = r.blobs[answer.path.rpartition("/")[2]]
        start = int(answer.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        answer.send_response(206 if start else 200)
        answer.send_header("Content-Length", str(len(data) - start))
        if start:
            answer.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        answer.end_headers()
        for at in range(start, len(data), 100_000):
            answer.wfile.write(data[at : at + 100_000])
            time.sleep(0.004)

    r.rule("GET", "/v2/t/x/blobs/", piecemeal)
    yield r
    r.close()


@pytest.mark.root
@pytest.mark.crash
@pytest.mark.slow
def test_kill_at_random_moments(slow: HostileRegistry, tmp_path: Path) -> None:
    ref = slow.add(IMAGE)
    program = PROGRAM.format(tests=str(Path(__file__).parents[1]), root=str(tmp_path), ref=ref)
    chance = random.Random(7)
    for _ in range(6):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0.0, 0.12))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    stand = Stand(tmp_path)
    stand.content.cleanup()
    for blob in stand.content.walk():
        assert sha256(stand.content.read(blob.digest, max_bytes=1 << 24)) == blob.digest
    for record in stand.records.list():  # a name is there only if all of the image is
        image = open_image(stand.content, record.target)
        assert all(stand.content.has(r.id) for r in references(stand.content, record.target) if r.kind == "blob")
        assert image.diff_ids == [images.digest(t) for t in IMAGE.tars]
    snapshotter, _ = choose(str(tmp_path), str(tmp_path / "run"), "overlay")
    snapshotter.cleanup()
    puller = Puller(stand.registry, stand.content, snapshotter, InProcessUnpacker(snapshotter))
    result = puller.pull(parse_reference(ref), stand.records, stand.leases)
    assert snapshotter.chain(chain_id(result.image.diff_ids)) == result.image.diff_ids
    assert stand.partials() == []
    assert stand.names() == [ref]
    snapshotter.close()
    stand.close()
