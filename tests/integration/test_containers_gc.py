# SPDX-License-Identifier: Apache-2.0
"""What is left on disk after images and containers go: nothing that nobody refers to, and everything that somebody does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness import images
from harness.engine import Engine
from harness.registry import Registry

pytestmark = [pytest.mark.root]


def blobs(engine: Engine) -> set[str]:
    return {p.name for p in (engine.root / "content/blobs/sha256").iterdir()}


def until(condition, seconds: float = 10) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def tree(path: Path) -> int:
    return sum(1 for _ in path.rglob("*"))


def test_an_image_goes_whole_and_shared_layers_stay(engine: Engine, busybox: str, registry: Registry) -> None:
    before, files = blobs(engine), tree(engine.root / "snapshots")
    extra = images.make_tar({"extra": b"x" * 1000})
    ref = images.Image([images.busybox_tar(), extra]).push(registry.host, "gc-extra")
    engine.run("pull", ref)
    assert blobs(engine) > before
    engine.run("rmi", ref)
    until(lambda: blobs(engine) == before)
    until(lambda: tree(engine.root / "snapshots") == files)
    assert engine.out("run", "--rm", "--network", "none", busybox, "echo", "whole") == "whole"


def test_a_container_keeps_what_it_stands_on(engine: Engine, registry: Registry) -> None:
    before, files = blobs(engine), tree(engine.root / "snapshots")
    ref = images.Image([images.busybox_tar(), images.make_tar({"mine": b"kept"})]).push(registry.host, "gc-kept")
    engine.run("pull", ref)
    engine.run("create", "--name", "stands", "--network", "none", ref, "cat", "/mine")
    engine.run("rmi", "-f", ref)
    time.sleep(1.2)
    assert engine.out("start", "-a", "stands") == "kept"
    engine.run("rm", "stands")
    until(lambda: blobs(engine) == before)
    until(lambda: tree(engine.root / "snapshots") == files)


def test_collections_run_while_pulls_do(engine: Engine, registry: Registry) -> None:
    layers = [images.busybox_tar(), *(images.make_tar({f"f{n}": bytes([n]) * 200_000}) for n in range(6))]
    ref = images.Image(layers).push(registry.host, "gc-race")
    small = images.Image([images.make_tar({"small": b"1"})]).push(registry.host, "gc-small")
    for _ in range(4):
        engine.run("pull", small)
        engine.run("rmi", small)  # asks for a collection
        engine.run("pull", ref)
        assert engine.out("run", "--rm", "--network", "none", ref, "sh", "-c", "cat /f* | wc -c") == "1200000"
        engine.run("rmi", ref)
