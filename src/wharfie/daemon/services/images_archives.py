# SPDX-License-Identifier: Apache-2.0
"""save and load: images out of the engine as one tar, and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from wharfie.daemon.services.archive_pipes import ByteSource, Readable, from_thread, into_thread
from wharfie.daemon.services.images import Images
from wharfie.daemon.services.images_progress import Message
from wharfie.errdefs import InvalidArgument
from wharfie.images import DANGLING_PREFIX, KIND_BLOB, Ref
from wharfie.images.loading import Loaded, load
from wharfie.images.saving import SaveItem, save
from wharfie.images.walk import image_refs, present_images, references
from wharfie.spec.platform import Platform, host_platform
from wharfie.spec.reference import parse_reference


def save_items(images: Images, ns: str, texts: Sequence[str]) -> list[SaveItem]:
    """What `texts` mean: a name with a tag is that name, one without all tags of the repository, an id has no name."""
    found: dict[str, SaveItem] = {}
    for text in texts:
        if _add_repository(images, ns, text, found):
            continue
        match = images.find(ns, text)
        _add(found, SaveItem(match.record.target, (parse_reference(match.record.name),) if match.named else ()))
    return list(found.values())


def _add(found: dict[str, SaveItem], item: SaveItem) -> None:
    before = found.get(item.target.digest)
    names = (*before.names, *item.names) if before else item.names
    found[item.target.digest] = SaveItem(item.target, tuple(dict.fromkeys(names)))


def _add_repository(images: Images, ns: str, text: str, found: dict[str, SaveItem]) -> bool:
    """All tags of the repository `text`; False where it is something else than a bare name of one that has tags."""
    try:
        asked = parse_reference(text, default_tag=None)
    except InvalidArgument:
        return False  # an id
    if asked.tag is not None or asked.digest is not None:
        return False
    any_ = False
    for record in images.all(ns):
        if not record.name.startswith(DANGLING_PREFIX):
            name = parse_reference(record.name)
            if name.repository == asked.repository and name.tag:
                _add(found, SaveItem(record.target, (name,)))
                any_ = True
    return any_


async def save_archive(
    images: Images, ns: str, texts: Sequence[str], platform: Platform | None
) -> AsyncIterator[bytes]:
    """The archive. What is wrong (NotFound, InvalidArgument) is raised before the first bytes."""
    engine = images.engine
    lease = images.leases(ns).hold("save")
    saved: list[SaveItem] = []

    def work(write: Callable[[bytes], None]) -> None:
        with lease as held:
            items = save_items(images, ns, texts)
            saved.extend(items)
            held.add([r for item in items for r in references(engine.content, item.target)])
            for chunk in save(engine.content, items, platform=platform):
                write(chunk)

    async for chunk in from_thread(engine, work):
        yield chunk
    for item in saved:
        images.publish(ns, "save", item.target.digest, [n.familiar() for n in item.names])


async def load_archive(images: Images, ns: str, body: ByteSource, platform: Platform | None) -> list[Message]:
    """Load all images of an archive; what is to be said of each. Raises InvalidArgument, DataLoss, NotFound."""
    engine = images.engine

    def work(stream: Readable) -> list[Message]:
        try:
            with images.leases(ns).hold("load") as lease:
                loaded = load(engine.content, stream, lease.add, platform=platform)
                return [message for one in loaded for message in _finish(images, ns, one, lease.add)]
        finally:
            images.collect_soon()

    return await into_thread(engine, body, work)


def _finish(images: Images, ns: str, one: Loaded, keep: Callable[[list[Ref]], None]) -> list[Message]:
    """Unpack what this host runs, write the names."""
    content = images.engine.content
    runs_here = one.image.platform.os == host_platform().os
    if runs_here:
        keep([*image_refs(one.image.diff_ids), *(Ref(KIND_BLOB, d.digest) for d in one.image.manifest.layers)])
        images.unpack(ns, one.image, one.target.digest)
    refs = references(content, one.target)
    names = [str(n) for n in one.names] or [DANGLING_PREFIX + one.target.digest]
    for name in names:
        images.records(ns).put(name, one.target, refs=refs)
    images.engine.loop.call_soon_threadsafe(images.forget, one.target.digest)
    shown = [n.familiar() for n in one.names]
    images.publish(ns, "load", one.target.digest, shown)
    platforms = len(list(present_images(content, one.target)))
    more = f" ({platforms} platforms)" if platforms > 1 else ""
    if not shown:
        return [{"stream": f"Loaded image ID: {one.target.digest}{more}\n"}]
    return [{"stream": f"Loaded image: {name}{more}\n"} for name in shown]
