# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator

import pytest

from harness import images
from harness.engine import Engine
from harness.registry import Registry

# A background job of a shell is born with SIGINT ignored, and would hand that on to everything that is tested here.
signal.signal(signal.SIGINT, signal.default_int_handler)


def need(*programs: str) -> None:
    """Skip at a desk, fail in CI, where a peer program is missing."""
    missing = [p for p in programs if shutil.which(p) is None]
    if missing:
        message = f"not installed: {', '.join(missing)} (scripts/setup installs it)"
        if os.environ.get("WHARFIE_CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    need("docker-registry", "busybox")
    r = Registry()
    images.busybox().push(r.host, "library/busybox")
    yield r
    r.close()


@pytest.fixture(scope="session")
def busybox(registry: Registry) -> str:
    """Reference of a busybox image in the session's registry."""
    return f"{registry.host}/library/busybox:latest"


@pytest.fixture(scope="session")
def debian(registry: Registry) -> str:
    """Reference of a minimal Debian image in the session's registry."""
    need("debootstrap")
    return images.debian().push(registry.host, "library/debian")


@pytest.fixture(scope="module")
def module_engine(busybox: str) -> Iterator[Engine]:
    """One engine for a test module, busybox pulled; checked for leaks at its end."""
    engine = Engine()
    try:
        engine.run("pull", busybox)
        yield engine
        engine.close()
    finally:
        engine.destroy()


@pytest.fixture
def engine(module_engine: Engine) -> Iterator[Engine]:
    """The module's engine; after each test its containers are removed and nothing of them may be left."""
    yield module_engine
    module_engine.remove_containers()
    module_engine.assert_clean()


@pytest.fixture
def own_engine(busybox: str) -> Iterator[Engine]:
    """An engine for one test alone (crash tests, configuration), busybox pulled."""
    engine = Engine()
    try:
        engine.run("pull", busybox)
        yield engine
        engine.close()
    finally:
        engine.destroy()
