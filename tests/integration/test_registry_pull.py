# SPDX-License-Identifier: Apache-2.0
"""Pulling from a real docker-registry and from one that breaks connections."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import images
from harness.registry import Registry as DockerRegistry
from integration.hostile_registry import Answer, HostileRegistry
from integration.layers_only import Stand
from wharfie.errdefs import Cancelled, DataLoss, NotFound, PermissionDenied, Unavailable
from wharfie.images.walk import open_image, references
from wharfie.spec.digest import chain_ids
from wharfie.spec.platform import parse_platform
from wharfie.spec.reference import parse_reference

BIG = images.Image(
    [images.make_tar({f"d{n}": os.urandom(400_000 + n) for n in range(4)}) for _ in range(5)], {"Cmd": ["x"]}
)
INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    s = Stand(tmp_path)
    yield s
    s.close()


@pytest.fixture
def hostile() -> Iterator[HostileRegistry]:
    r = HostileRegistry()
    yield r
    r.close()


@pytest.mark.peer
def test_pull_from_docker_registry(stand: Stand, registry: DockerRegistry) -> None:
    ref = BIG.push(registry.host, "pull/big")
    result = stand.pull(ref)
    assert result.record.name == ref
    assert result.record.target.digest == BIG.digest == result.image.descriptor.digest
    assert not result.up_to_date
    assert [stand.layers.layers[images.digest(t)] for t in BIG.tars] == BIG.tars
    assert chain_ids(result.image.diff_ids)[-1] in stand.layers.stacks
    assert all(stand.content.read(images.digest(b), max_bytes=1 << 24) == b for b in BIG.blobs)
    assert stand.partials() == []
    layer = images.digest(BIG.blobs[0])
    phases = stand.phases(layer)
    assert phases[:2] == ["waiting", "downloading"]
    assert phases[-3:] == ["downloaded", "extracting", "pulled"]
    assert {r.id for r in references(stand.content, result.record.target)} >= {BIG.digest, layer}
    assert stand.pull(ref).up_to_date
    assert stand.layers.ingests == 5


@pytest.mark.peer
def test_a_layer_already_here_is_neither_fetched_nor_unpacked(stand: Stand, hostile: HostileRegistry) -> None:
    stand.pull(hostile.add(images.Image(BIG.tars[:3])))
    stand.pull(hostile.add(BIG, tag="more"))
    assert stand.layers.ingests == 5
    assert all(len(hostile.asked("GET", images.digest(b))) == 1 for b in BIG.blobs)
    assert stand.phases(images.digest(BIG.blobs[0]))[-1] == "exists"


def test_blob_here_but_layer_lost(stand: Stand, hostile: HostileRegistry) -> None:
    ref = hostile.add(BIG)
    stand.pull(ref)
    stand.layers.layers.pop(images.digest(BIG.tars[2]))
    stand.pull(ref)
    assert images.digest(BIG.tars[2]) in stand.layers.layers
    assert len(hostile.asked("GET", images.digest(BIG.blobs[2]))) == 1


def drop_after(count: int, *, times: int) -> object:
    """A handler that sends `count` bytes of a blob and hangs up, `times` times; then it is honest."""
    left = [times]

    def handler(answer: Answer) -> object:
        if not left[0]:
            return False
        left[0] -= 1
        data = answer.server.registry.blobs[answer.path.rpartition("/")[2]]
        start = int(answer.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        answer.send_response(206 if start else 200)
        answer.send_header("Content-Length", str(len(data) - start))
        if start:
            answer.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        answer.end_headers()
        answer.wfile.write(data[start : start + count])
        answer.hang_up()
        return True

    return handler


def test_dropped_connections_resume_by_range(stand: Stand, hostile: HostileRegistry) -> None:
    ref = hostile.add(BIG)
    blob = images.digest(BIG.blobs[0])
    hostile.rule("GET", f"/v2/t/x/blobs/{blob}", drop_after(300_000, times=4))
    stand.pull(ref)
    starts = [s.headers.get("range", "")[6:].partition("-")[0] for s in hostile.asked("GET", blob)]
    assert starts == ["", "300000", "600000", "900000", "1200000"]
    assert "retrying" in stand.phases(blob)
    assert stand.layers.layers[images.digest(BIG.tars[0])] == BIG.tars[0]


def test_a_registry_that_always_breaks_off_is_given_up_and_taken_up_later(
    stand: Stand, hostile: HostileRegistry
) -> None:
    ref = hostile.add(images.Image(BIG.tars[:1]))
    blob = images.digest(BIG.blobs[0])
    hostile.rule("GET", f"/v2/t/x/blobs/{blob}", drop_after(20_000, times=5))
    with pytest.raises(Unavailable, match=r"connection lost|ended a blob"):
        stand.pull(ref)
    assert len(stand.partials()) == 1
    assert stand.names() == []
    assert not stand.layers.layers
    stand.pull(ref)
    assert hostile.seen[-1].headers["range"].startswith("bytes=100000-")
    assert stand.partials() == []


def test_a_server_without_ranges_is_read_past(stand: Stand, hostile: HostileRegistry) -> None:
    ref = hostile.add(BIG)
    blob = images.digest(BIG.blobs[0])
    hostile.rule("GET", f"/v2/t/x/blobs/{blob}", drop_after(300_000, times=1))
    hostile.rule("GET", f"/v2/t/x/blobs/{blob}", lambda a: a.reply(200, BIG.blobs[0]))
    stand.pull(ref)
    assert stand.layers.layers[images.digest(BIG.tars[0])] == BIG.tars[0]


def test_kill_9_in_a_download_resumes(stand: Stand, hostile: HostileRegistry, tmp_path: Path) -> None:
    ref = hostile.add(BIG)
    blob = images.digest(BIG.blobs[0])
    release = threading.Event()

    def stall(answer: Answer) -> object:
        if release.is_set():
            return False
        answer.send_response(200)
        answer.send_header("Content-Length", str(len(BIG.blobs[0])))
        answer.end_headers()
        answer.wfile.write(BIG.blobs[0][:700_000])
        release.wait(20)
        return True

    hostile.rule("GET", f"/v2/t/x/blobs/{blob}", stall)
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from pathlib import Path; from integration.layers_only import Stand\n"
        f"Stand(Path({str(tmp_path)!r})).pull({ref!r})"
    )
    child = subprocess.Popen([sys.executable, "-c", program])
    data = tmp_path / "content/ingest"
    deadline = time.monotonic() + 10
    while not [f for f in data.glob("*/data") if f.stat().st_size == 700_000]:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    release.set()
    stand.content.cleanup()
    assert stand.names() == []
    stand.pull(ref)
    assert hostile.asked("GET", blob)[-1].headers["range"].startswith("bytes=700000-")
    assert stand.layers.layers[images.digest(BIG.tars[0])] == BIG.tars[0]
    assert stand.partials() == []


def test_damaged_partial_is_thrown_away(stand: Stand, hostile: HostileRegistry) -> None:
    ref = hostile.add(images.Image(BIG.tars[:1]))
    blob = images.digest(BIG.blobs[0])
    writer = stand.content.writer(f"layer-{blob}", digest=blob)
    writer.write(BIG.blobs[0][:1000] + bytes(5000))
    writer.close()
    stand.pull(ref)
    assert stand.content.has(blob)


def test_two_pulls_share_one_download(stand: Stand, hostile: HostileRegistry) -> None:
    one, two = hostile.add(BIG), hostile.add(images.Image(BIG.tars, {"Cmd": ["other"]}), tag="two")
    gate = threading.Barrier(2, timeout=5)
    hostile.rule("HEAD", "/v2/t/x/manifests/", lambda a: gate.wait() is None)
    hostile.rule("GET", "/v2/t/x/blobs/", lambda a: time.sleep(0.05) or False)
    with ThreadPoolExecutor(2) as pool:
        for f in [pool.submit(stand.pull, r) for r in (one, two)]:
            f.result()
    assert all(len(hostile.asked("GET", images.digest(b))) == 1 for b in BIG.blobs)
    assert len(stand.names()) == 2


def test_who_shares_a_download_does_not_share_its_failure(stand: Stand, hostile: HostileRegistry) -> None:
    honest = HostileRegistry()
    try:
        image = images.Image(BIG.tars[:1])
        bad, good = hostile.add(image), honest.add(image)
        begun = threading.Event()

        def fail(a: Answer) -> object:
            begun.set()
            time.sleep(0.1)
            return a.reply(403)

        hostile.rule("GET", "/v2/t/x/blobs/" + images.digest(image.blobs[0]), fail)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(stand.pull, bad)
            assert begun.wait(5)
            assert stand.pull(good).record.name == good
            assert isinstance(first.exception(), PermissionDenied)
        assert stand.names() == [good]
    finally:
        honest.close()


@pytest.mark.peer
def test_all_tags(stand: Stand, registry: DockerRegistry, hostile: HostileRegistry) -> None:
    for n in range(3):
        BIG.push(registry.host, "pull/tags", f"v{n}")
    repository = stand.registry.repository(parse_reference(f"{registry.host}/pull/tags"))
    assert sorted(repository.tags()) == ["v0", "v1", "v2"]

    def page(a: Answer) -> None:
        last = int(a.path.partition("last=")[2] or 0)
        more = {"Link": f'</v2/t/x/tags/list?last={last + 1}>; rel="next"'} if last < 4 else {}
        a.reply(200, b'{"name":"t/x","tags":["t%d"]}' % last, **more)

    hostile.rule("GET", "/v2/t/x/tags/list", page)
    assert stand.registry.repository(parse_reference(f"{hostile.host}/t/x")).tags() == ["t0", "t1", "t2", "t3", "t4"]


def test_cancel(stand: Stand, hostile: HostileRegistry) -> None:
    ref = hostile.add(BIG)
    cancel = threading.Event()

    def trickle(answer: Answer) -> None:
        answer.send_response(200)
        answer.send_header("Content-Length", str(len(BIG.blobs[0])))
        answer.end_headers()
        answer.wfile.write(b"x" * 1000)
        cancel.set()
        while True:
            answer.wfile.write(b"x")
            time.sleep(0.02)

    hostile.rule("GET", f"/v2/t/x/blobs/{images.digest(BIG.blobs[0])}", trickle)
    with pytest.raises(Cancelled):
        stand.pull(ref, cancel=cancel)
    assert stand.names() == []
    assert not list(stand.metadata.reader().execute("SELECT * FROM leases"))


def index_of(hostile: HostileRegistry, platforms: dict[str, images.Image]) -> str:
    entries = []
    for platform, image in platforms.items():
        hostile.add(image, tag=platform.replace("/", "-"))
        os_, arch, *variant = platform.split("/")
        p = {"os": os_, "architecture": arch, **({"variant": variant[0]} if variant else {})}
        entries.append({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.digest,
            "size": len(image.manifest), "platform": p,
        })  # fmt: skip
    hostile.add_manifest(
        json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode(), INDEX, "multi"
    )
    return f"{hostile.host}/t/x:multi"


def test_platforms(stand: Stand, hostile: HostileRegistry) -> None:
    made = {
        p: images.Image([images.make_tar({p.replace("/", "-"): b"x"})], platform=p)
        for p in ("linux/amd64", "linux/arm64", "linux/arm/v7")
    }
    ref = index_of(hostile, made)
    host = parse_platform("linux/amd64")
    assert stand.pull(ref, platform=host).image.descriptor.digest == made["linux/amd64"].digest
    arm = stand.pull(ref, platform=parse_platform("linux/arm64"))
    assert arm.image.descriptor.digest == made["linux/arm64"].digest
    assert arm.record.target.media_type == INDEX
    # both stay: the record's references cover every platform that is here
    held = {r.id for r in references(stand.content, arm.record.target)}
    assert {made["linux/amd64"].digest, made["linux/arm64"].digest} <= held
    assert open_image(stand.content, arm.record.target, host).platform == host
    with pytest.raises(
        NotFound, match=r"no image for linux/s390x; there is: linux/amd64, linux/arm64, linux/arm/v7"
    ) as e:
        stand.pull(ref, platform=parse_platform("linux/s390x"))
    assert "--platform linux/amd64" in (e.value.hint or "")
    with pytest.raises(NotFound, match="no image for linux/s390x; there is: linux/amd64"):
        stand.pull(f"{hostile.host}/t/x:linux-amd64", platform=parse_platform("linux/s390x"))


def test_by_digest_is_recorded_without_tag(stand: Stand, hostile: HostileRegistry) -> None:
    ref = hostile.add(BIG)
    stand.pull(f"{ref}@{BIG.digest}")
    assert stand.names() == [f"{hostile.host}/t/x@{BIG.digest}"]


def test_a_moved_tag_leaves_a_dangling_record(stand: Stand, hostile: HostileRegistry) -> None:
    ref = hostile.add(images.Image(BIG.tars[:1]))
    old = stand.pull(ref).record.target.digest
    hostile.add(images.Image(BIG.tars[:2]))
    stand.pull(ref)
    assert sorted(stand.names()) == sorted([f"<none>@{old}", ref])


def test_layer_that_is_not_its_diff_id(stand: Stand, hostile: HostileRegistry) -> None:
    image = images.Image(BIG.tars[:1])
    image.config["rootfs"]["diff_ids"] = [images.digest(b"other")]
    image.config_blob = json.dumps(image.config).encode()
    manifest = json.loads(image.manifest)
    manifest["config"] |= {"digest": images.digest(image.config_blob), "size": len(image.config_blob)}
    image.manifest = json.dumps(manifest).encode()
    with pytest.raises(DataLoss, match="another digest"):
        stand.pull(hostile.add(image))
    assert stand.names() == []
    assert not stand.layers.layers
