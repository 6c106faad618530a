# SPDX-License-Identifier: Apache-2.0
"""Docker's message stream."""

from __future__ import annotations

import asyncio
import threading

import pytest

from wharfie.daemon.services.images_progress import (
    Feed,
    PullMessages,
    PushMessages,
    bar,
    error_message,
    human_size,
    step,
)
from wharfie.errdefs import NotFound
from wharfie.spec.reference import parse_reference
from wharfie.transfer import Phase, Progress

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (1234567, "1.235MB"), (5 * 10**9, "5GB"), (10**16, "10PB")],
)
def test_human_size(size: int, text: str) -> None:
    assert human_size(size) == text


def test_bar_has_a_fixed_width() -> None:
    widths = {len(bar(n, 1000).partition("]")[0]) for n in range(0, 1001, 50)}
    assert widths == {51}
    assert "=" * 50 in bar(1000, 1000)


def test_pull_says_where_it_pulls_from_once() -> None:
    messages = PullMessages(parse_reference("debian"))
    assert messages(Progress("x", Phase.RESOLVING)) == []
    first = messages(Progress(DIGEST, Phase.WAITING, total=10))
    assert first[0] == {"status": "Pulling from library/debian", "id": "latest"}
    assert first[1] == {"status": "Pulling fs layer", "progressDetail": {}, "id": "ab" * 6}
    (second,) = messages(Progress(DIGEST, Phase.DOWNLOADING, 5, 10))
    assert second["progressDetail"] == {"current": 5, "total": 10}
    end = messages.end(DIGEST, newer=True)
    assert [m["status"] for m in end] == [f"Digest: {DIGEST}", "Status: Downloaded newer image for debian:latest"]


def test_pull_from_another_registry_shows_the_path() -> None:
    messages = PullMessages(parse_reference("localhost:5000/a/b:t"))
    assert messages.end(DIGEST, newer=False)[0] == {"status": "Pulling from a/b", "id": "t"}


def test_push_ends_with_the_digest() -> None:
    messages = PushMessages(parse_reference("localhost:5000/a:t"))
    (head, pushed) = messages(Progress(DIGEST, Phase.MOUNTED, detail="library/x"))
    assert head == {"status": "The push refers to repository [localhost:5000/a]"}
    assert pushed["status"] == "Mounted from library/x"
    assert messages.end(DIGEST, 42)[-1]["aux"] == {"Tag": "t", "Digest": DIGEST, "Size": 42}


def test_error_message_has_the_fix() -> None:
    message = error_message(NotFound("no x", hint="try y"))
    assert message["error"] == message["errorDetail"]["message"] == "no x\ntry y"


def test_feed_carries_messages_and_the_error() -> None:
    async def scenario() -> list[str]:
        loop = asyncio.get_running_loop()
        feed = Feed(loop)

        def work() -> None:
            for n in range(3):
                feed.put(step(str(n)))
            raise NotFound("gone")

        seen = []
        with pytest.raises(NotFound, match="gone"):
            async for message in feed.run(lambda: loop.run_in_executor(None, work)):
                seen.append(message["status"])  # noqa: PERF401 what came before the error counts
        return seen

    assert asyncio.run(scenario()) == ["0", "1", "2"]


def test_feed_tells_the_worker_that_nobody_reads() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        feed = Feed(loop)
        stopped = threading.Event()

        def work() -> None:
            feed.put(step("one"))
            while not feed.cancelled:
                stopped.wait(0.005)
            stopped.set()

        stream = feed.run(lambda: loop.run_in_executor(None, work))
        async for _ in stream:
            break
        await stream.aclose()
        assert await loop.run_in_executor(None, stopped.wait, 2)

    asyncio.run(scenario())
