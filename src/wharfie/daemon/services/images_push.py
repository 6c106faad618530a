# SPDX-License-Identifier: Apache-2.0
"""Push for the API: one name, or every tag of a repository."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable

from wharfie.daemon.services.images import Images
from wharfie.daemon.services.images_progress import Message, PushMessages
from wharfie.daemon.services.images_pull import run_with_messages
from wharfie.errdefs import NotFound
from wharfie.images import DANGLING_PREFIX
from wharfie.registry import Credentials
from wharfie.spec.platform import Platform
from wharfie.spec.reference import Reference, parse_reference
from wharfie.transfer import Progress


def push(
    images: Images,
    ns: str,
    reference: Reference,
    *,
    platform: Platform | None = None,
    credentials: Credentials | None = None,
) -> AsyncIterator[Message]:
    """Messages of the push; a reference without a tag means all tags of its repository."""

    def work(say: Callable[[Message], None], cancel: threading.Event) -> None:
        references = [reference] if reference.tag or reference.digest else _tags(images, ns, reference)
        for one in references:
            messages = PushMessages(one)

            def progress(event: Progress, messages: PushMessages = messages) -> None:
                for message in messages(event):
                    say(message)

            result = images.pusher.push(
                one,
                images.records(ns),
                platform=platform,
                credentials=credentials,
                progress=progress,
                cancel=cancel,
            )
            for message in messages.end(result.digest, result.manifest_bytes):
                say(message)
            images.publish(ns, "push", one.familiar(), [one.familiar()])

    return run_with_messages(images, work)


def _tags(images: Images, ns: str, reference: Reference) -> list[Reference]:
    names = [parse_reference(r.name) for r in images.all(ns) if not r.name.startswith(DANGLING_PREFIX)]
    found = [n for n in names if n.repository == reference.repository and n.tag]
    if not found:
        raise NotFound(
            f"push {reference.familiar()!r}: an image does not exist locally with this name",
            hint=f"give an image that name first: `tag IMAGE {reference.familiar()}`",
        )
    return found
