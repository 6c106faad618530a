# SPDX-License-Identifier: Apache-2.0
"""Tag, untag, delete and prune: what happens to names, and what Docker says about it.

A name that goes takes only itself; the image goes with its last name. What it held is garbage, collected at once for
prune (which reports the bytes) and a moment later otherwise.
"""

from __future__ import annotations

from typing import Any

from wharfie.daemon.services import images_list
from wharfie.daemon.services.container import Container
from wharfie.daemon.services.images import Found, Images
from wharfie.errdefs import Conflict, InvalidArgument, NotFound
from wharfie.images import DANGLING_PREFIX
from wharfie.images.walk import references
from wharfie.spec.reference import Reference, parse_reference

Report = list[dict[str, str]]


def tag(images: Images, ns: str, text: str, repository: str, tag_: str) -> None:
    """Give an image one more name. Blocking. Raises NotFound, InvalidArgument."""
    found = images.find(ns, text)
    reference = parse_reference(f"{repository}:{tag_}" if tag_ else repository)
    if reference.digest is not None:
        raise InvalidArgument(f"tag image {text!r}: refusing to create a tag with a digest reference")
    target = found.record.target
    images.records(ns).put(
        str(reference), target, refs=references(images.engine.content, target), labels=found.record.labels
    )
    images.publish(ns, "tag", target.digest, [reference.familiar()])


def _short(digest: str) -> str:
    return digest.partition(":")[2][:12]


def _users(images: Images, ns: str, digest: str) -> tuple[list[Container], list[Container]]:
    """(running, stopped) containers of an image."""
    used = images.engine.containers.using_image(ns, [digest])
    return [c for c in used if c.state.alive], [c for c in used if not c.state.alive]


def remove(images: Images, ns: str, text: str, *, force: bool = False, prune: bool = True) -> Report:
    """DELETE /images/{name}. Blocking. Raises NotFound, Conflict.

    `prune` off keeps an image that loses its last name, without one.
    """
    found = images.find(ns, text)
    digest = found.record.target.digest
    names = images.names(ns, digest)
    running, stopped = _users(images, ns, digest)
    if found.named:
        mine = [parse_reference(found.record.name)]
        others = [n for n in names if n not in mine]
        if not others and not force and (running or stopped):
            user = (running or stopped)[0]
            raise Conflict(
                f"conflict: unable to remove repository reference {text!r} (must force) - container {user.short} is"
                f" using its referenced image {_short(digest)}",
                hint=f"remove the container first: `rm {user.name}`",
            )
        keep = bool(others) or bool(running) or not prune
    else:
        _check_id(digest, names, running, stopped, force=force)
        mine, keep = names, not prune
    report = _untag(images, ns, digest, mine, last=not [n for n in names if n not in mine])
    if keep:
        if not [n for n in names if n not in mine]:
            _leave_dangling(images, ns, found)
        _drop_names(images, ns, mine)
        return report
    _drop_names(images, ns, mine)
    _drop_dangling(images, ns, digest)
    images.forget(digest)
    images.publish(ns, "delete", digest)
    return [*report, {"Deleted": digest}]


def _check_id(
    digest: str, names: list[Reference], running: list[Container], stopped: list[Container], *, force: bool
) -> None:
    head = f"conflict: unable to delete {_short(digest)}"
    if running:
        raise Conflict(
            f"{head} (cannot be forced) - image is being used by running container {running[0].short}",
            hint=f"stop and remove the container first: `rm -f {running[0].name}`",
        )
    if force:
        return
    if len({n.repository for n in names}) > 1:
        raise Conflict(
            f"{head} (must be forced) - image is referenced in multiple repositories",
            hint="remove it by each of its names, or force it",
        )
    if stopped:
        raise Conflict(
            f"{head} (must be forced) - image is being used by stopped container {stopped[0].short}",
            hint=f"remove the container first: `rm {stopped[0].name}`",
        )


def _untag(images: Images, ns: str, digest: str, names: list[Reference], *, last: bool) -> Report:
    report = []
    for name in names:
        report.append({"Untagged": name.familiar()})
        images.publish(ns, "untag", digest, [name.familiar()])
    if last:
        report += [{"Untagged": text} for text in images_list.repo_digests([n for n in names if n.tag], digest)]
    return report


def _drop_names(images: Images, ns: str, names: list[Reference]) -> None:
    for name in names:
        try:
            images.records(ns).delete(str(name))
        except NotFound:
            continue  # somebody else was faster


def _leave_dangling(images: Images, ns: str, found: Found) -> None:
    target = found.record.target
    images.records(ns).put(
        DANGLING_PREFIX + target.digest,
        target,
        refs=references(images.engine.content, target),
        labels=found.record.labels,
    )


def _drop_dangling(images: Images, ns: str, digest: str) -> None:
    try:
        images.records(ns).delete(DANGLING_PREFIX + digest)
    except NotFound:
        return


def prune(images: Images, ns: str, filters: dict[str, list[str]]) -> Report:
    """Remove dangling images that no container uses, with dangling=false all unused ones. Blocking."""
    chosen = dict(filters)
    everything = (chosen.pop("dangling", None) or ["true"])[-1].lower() in {"false", "0"}
    unwanted = chosen.pop("label!", [])
    report: Report = []
    accept = images_list.Filter(images, ns, chosen)
    for group in images_list.groups(images, ns):
        if group.names and not everything:
            continue
        if accept(group) is None or any(images_list.has_labels(group, [label]) for label in unwanted):
            continue
        running, stopped = _users(images, ns, group.target.digest)
        if running or stopped:
            continue
        report += _untag(images, ns, group.target.digest, group.names, last=True)
        _drop_names(images, ns, group.names)
        _drop_dangling(images, ns, group.target.digest)
        images.forget(group.target.digest)
        images.publish(ns, "delete", group.target.digest)
        report.append({"Deleted": group.target.digest})
    return report


async def prune_and_collect(images: Images, ns: str, filters: dict[str, list[str]]) -> dict[str, Any]:
    """POST /images/prune: what went, and the bytes that came free."""
    engine = images.engine
    report = await engine.files(prune, images, ns, filters)
    freed = 0
    if report:
        before = await engine.background(_footprint, images)
        await engine.collector.collect()
        freed = max(before - await engine.background(_footprint, images), 0)
    engine.events.publish(ns, "/wharfie/image/prune", {"reclaimed": freed}, attributes={"reclaimed": str(freed)})
    return {"ImagesDeleted": report or None, "SpaceReclaimed": freed}


def _footprint(images: Images) -> int:
    """Bytes of all blobs and layers."""
    engine = images.engine
    blobs = sum(b.size_bytes for b in engine.content.walk())
    return blobs + sum(s.usage(i.name).size_bytes for s in engine.snapshotters.values() for i in s.walk())
