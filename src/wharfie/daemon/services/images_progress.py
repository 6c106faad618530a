# SPDX-License-Identifier: Apache-2.0
"""Progress of transfers in the words of Docker's JSON message stream.

`PullMessages` and `PushMessages` turn `transfer.Progress` into message dicts; `bar()` is the text that old clients show;
`Feed` carries messages from worker threads to the coroutine that writes the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from wharfie.errdefs import WharfieError
from wharfie.spec.digest import is_digest
from wharfie.spec.reference import Reference
from wharfie.transfer import Phase, Progress

Message = dict[str, Any]

_BAR_WIDTH = 50


def human_size(size_bytes: float) -> str:
    """Decimal units, at most four digits: 1.234MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size_bytes < 1000:
            return f"{size_bytes:.4g}{unit}"
        size_bytes /= 1000
    return f"{size_bytes:.4g}PB"


def bar(current: int, total: int) -> str:
    if total <= 0:
        return f"{human_size(current):>8}"
    done = min(current, total) * _BAR_WIDTH // total
    filled = "=" * max(done - 1, 0) + (">" if done < _BAR_WIDTH else "=")
    return f"[{filled:<{_BAR_WIDTH}}] {human_size(current):>8}/{human_size(total)}"


def short_id(text: str) -> str:
    """What a client shows of a digest; other words stay as they are."""
    return text.partition(":")[2][:12] if is_digest(text) else text


def step(status: str, id_: str = "", current: int = 0, total: int = 0) -> Message:
    """One message about one object."""
    message: Message = {"status": status}
    if current or total:
        detail = {"current": current}
        if total:
            detail["total"] = total
        message["progressDetail"] = detail
        message["progress"] = bar(current, total)
    else:
        message["progressDetail"] = {}
    if id_:
        message["id"] = id_
    return message


def error_message(error: BaseException) -> Message:
    """The last message of a stream that went wrong after it began."""
    text = error.full() if isinstance(error, WharfieError) else f"{type(error).__name__}: {error}"
    detail: Message = {"message": text}
    if isinstance(error, WharfieError):
        detail["code"] = error.code
    return {"errorDetail": detail, "error": text}


_PULL = {
    Phase.WAITING: "Pulling fs layer",
    Phase.DOWNLOADING: "Downloading",
    Phase.VERIFYING: "Verifying Checksum",
    Phase.DOWNLOADED: "Download complete",
    Phase.EXTRACTING: "Extracting",
    Phase.PULLED: "Pull complete",
    Phase.EXISTS: "Already exists",
}
_PUSH = {
    Phase.PREPARING: "Preparing",
    Phase.WAITING: "Waiting",
    Phase.PUSHING: "Pushing",
    Phase.PUSHED: "Pushed",
    Phase.EXISTS: "Layer already exists",
}
_WITH_BYTES = frozenset({Phase.DOWNLOADING, Phase.EXTRACTING, Phase.PUSHING})


class PullMessages:
    """Messages of one pull, which begins with "Pulling from" as soon as the registry has answered."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._begun = False

    def __call__(self, event: Progress) -> list[Message]:
        if event.phase in {Phase.RESOLVING, Phase.DONE}:
            return []
        messages = self._begin()
        if event.phase == Phase.RETRYING:
            messages.append(step(f"Retrying: {event.detail}" if event.detail else "Retrying", short_id(event.id)))
        elif event.phase in _PULL:
            current, total = (event.current, event.total) if event.phase in _WITH_BYTES else (0, 0)
            messages.append(step(_PULL[event.phase], short_id(event.id), current, total))
        return messages

    def _begin(self) -> list[Message]:
        if self._begun:
            return []
        self._begun = True
        reference = self._reference
        path = reference.path if reference.domain == "docker.io" else reference.repository.partition("/")[2]
        return [{"status": f"Pulling from {path}", "id": reference.tag or reference.digest or ""}]

    def end(self, digest: str, *, newer: bool) -> list[Message]:
        word = "Downloaded newer image for" if newer else "Image is up to date for"
        return [
            *self._begin(),
            {"status": f"Digest: {digest}"},
            {"status": f"Status: {word} {self._reference.familiar()}"},
        ]


class PushMessages:
    """Messages of one push."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._begun = False

    def __call__(self, event: Progress) -> list[Message]:
        if event.phase in {Phase.RESOLVING, Phase.DONE}:
            return []
        messages = self._begin()
        if event.phase == Phase.MOUNTED:
            messages.append(step(f"Mounted from {event.detail}" if event.detail else "Mounted", short_id(event.id)))
        elif event.phase == Phase.RETRYING:
            messages.append(step(f"Retrying: {event.detail}" if event.detail else "Retrying", short_id(event.id)))
        elif event.phase in _PUSH:
            current, total = (event.current, event.total) if event.phase in _WITH_BYTES else (0, 0)
            messages.append(step(_PUSH[event.phase], short_id(event.id), current, total))
        return messages

    def _begin(self) -> list[Message]:
        if self._begun:
            return []
        self._begun = True
        return [{"status": f"The push refers to repository [{self._reference.repository}]"}]

    def end(self, digest: str, size_bytes: int) -> list[Message]:
        tag = self._reference.tag or digest
        return [
            *self._begin(),
            {"status": f"{tag}: digest: {digest} size: {size_bytes}"},
            {"progressDetail": {}, "aux": {"Tag": tag, "Digest": digest, "Size": size_bytes}},
        ]


class Feed:
    """Messages from threads to one reader. Ends when `work` ends; an error of `work` comes out of the iteration.

    A reader that goes away sets `cancelled`, which `work` looks at between steps.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue()
        self.cancelled = False

    def put(self, message: Message) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, message)

    async def run(self, work: Callable[[], asyncio.Future[Any]]) -> AsyncGenerator[Message, None]:
        """Start `work` (a future of a pool) and give its messages as they come."""
        future = work()
        future.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._queue.put_nowait, None))
        try:
            while (message := await self._queue.get()) is not None:
                yield message
            await future
        finally:
            self.cancelled = True
            if not future.done():
                future.add_done_callback(_look_at_error)


def _look_at_error(future: asyncio.Future[Any]) -> None:
    """Nobody waits any more: the error has been counted as seen, so asyncio does not complain."""
    if not future.cancelled():
        future.exception()
