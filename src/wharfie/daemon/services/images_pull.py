# SPDX-License-Identifier: Apache-2.0
"""Pull and push for the API: transfers in threads, their progress as Docker's messages, cancelled when the client goes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from wharfie.daemon.services.images import Images
from wharfie.daemon.services.images_progress import Feed, Message, PullMessages
from wharfie.errdefs import NotFound
from wharfie.registry import Credentials
from wharfie.spec.platform import Platform, host_platform
from wharfie.spec.reference import Reference
from wharfie.transfer import Progress

T = TypeVar("T")


async def run_with_messages(
    images: Images, work: Callable[[Callable[[Message], None], threading.Event], T]
) -> AsyncIterator[Message]:
    """Run blocking `work(say, cancel)` in the transfer pool and give what it says. Leaving early sets `cancel`."""
    engine = images.engine
    feed = Feed(engine.loop)
    cancel = threading.Event()
    messages = feed.run(lambda: asyncio.ensure_future(engine.transfer(work, feed.put, cancel)))
    try:
        async with contextlib.aclosing(messages):
            async for message in messages:
                yield message
    finally:
        cancel.set()


def pull(
    images: Images,
    ns: str,
    reference: Reference,
    *,
    platform: Platform | None = None,
    credentials: Credentials | None = None,
) -> AsyncIterator[Message]:
    """One name; a reference with neither tag nor digest means every tag of the repository."""

    def work(say: Callable[[Message], None], cancel: threading.Event) -> None:
        references = [reference]
        if reference.tag is None and reference.digest is None:
            repository = images.registry.repository(reference, credentials, cancel=cancel)
            references = [reference._replace(tag=tag) for tag in repository.tags()]
            if not references:
                raise NotFound(f"pull {reference.familiar()!r}: the repository has no tags")
        for one in references:
            _pull_one(images, ns, one, platform=platform, credentials=credentials, say=say, cancel=cancel)

    return run_with_messages(images, work)


def _pull_one(
    images: Images,
    ns: str,
    reference: Reference,
    *,
    platform: Platform | None,
    credentials: Credentials | None,
    say: Callable[[Message], None],
    cancel: threading.Event,
) -> None:
    messages = PullMessages(reference)

    def progress(event: Progress) -> None:
        for message in messages(event):
            say(message)

    try:
        result = images.puller.pull(
            reference,
            images.records(ns),
            images.leases(ns),
            platform=platform or host_platform(),
            credentials=credentials,
            progress=progress,
            cancel=cancel,
        )
    except BaseException:
        images.collect_soon()
        raise
    digest = result.record.target.digest
    images.engine.loop.call_soon_threadsafe(images.forget, digest)
    for message in messages.end(digest, newer=not result.up_to_date):
        say(message)
    images.publish(ns, "pull", reference.familiar(), [reference.familiar()])
