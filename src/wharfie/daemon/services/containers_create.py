# SPDX-License-Identifier: Apache-2.0
"""Making a container: everything that can be known before its start, and one transaction.

Order, and what a kill in between leaves: volumes (dropped at the next start, for no record names the container),
snapshot and bundle (removed at the next start, for the same reason), record. Once the record is there, the rest is.
"""

from __future__ import annotations

import os
import platform as host_names
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from wharfie.daemon.services import bundle, log_options, rootfs_user, specgen
from wharfie.daemon.services import containers_records as records
from wharfie.daemon.services.container import Container
from wharfie.daemon.services.containers_records import Document, MountPoint, State, Userns
from wharfie.daemon.services.ids import check_name, new_id, random_name
from wharfie.daemon.services.mount_sources import bind_source, can_idmap, volume_subpath
from wharfie.daemon.services.specgen_config import arguments
from wharfie.errdefs import Conflict, FailedPrecondition, InvalidArgument, NotFound, Unsupported
from wharfie.metadata import KIND_BLOB, KIND_SNAPSHOT, Ref
from wharfie.metadata import containers as rows
from wharfie.oci import mounts as oci_mounts
from wharfie.oci import namespaces
from wharfie.oci.mounts import MountRequest, ResolvedMount
from wharfie.oci.resources import cgroups_path
from wharfie.spec.docker import LogConfig
from wharfie.spec.runtime import encode_spec
from wharfie.tasks import OWN_RUNTIME

if TYPE_CHECKING:
    from wharfie.daemon.services.containers import Containers
    from wharfie.daemon.state import ContainerImage
    from wharfie.mount import Mount
    from wharfie.spec.docker import Config, ContainerCreateBody, HostConfig
    from wharfie.spec.platform import Platform

SHM_SIZE = 64 << 20
_NETWORK_NAMES = {"": "bridge", "default": "bridge", "nat": "bridge"}
_JOINING = ("network_mode", "pid_mode", "ipc_mode")


class _New(NamedTuple):
    """A container on its way."""

    ns: str
    id: str
    name: str
    document: Document
    image: ContainerImage


async def create(
    cs: Containers, ns: str, name: str, body: ContainerCreateBody, *, platform: Platform | None, call: Any
) -> tuple[Container, list[str]]:
    """See `Containers.create`."""
    engine = cs.engine
    name = check_name(name) if name else random_name(lambda n: cs.name_taken(ns, n))
    if not body.image:
        raise InvalidArgument("create container: the request names no image")
    if cs.name_taken(ns, name):
        cs.reserve_name(ns, name, "")  # raises, before an image is looked for
    image: ContainerImage = await engine.images.for_container(ns, body.image, platform)
    if call is not None:
        call.phase("image")
    config = specgen.merge_config(image.config.config, body)
    warnings = specgen.validate(body, image.config.config, engine.host)
    host = settle_host_config(cs, ns, body)
    id_ = new_id()
    cs.reserve_name(ns, name, id_)
    try:
        config.hostname, config.domainname = _hostname(cs, ns, id_, host, config)
        document = Document(
            config=config,
            host_config=host,
            networking=body.networking_config,
            created_ns=time.time_ns(),
            image_id=image.target.digest,
            image_name=image.name,
            manifest=image.manifest.digest,
            platform=image.config.os or "linux",
            chain_id=image.chain_id,
            userns=choose_userns(cs, host),
            log_driver=host.log_config.type,
            log_opts=host.log_config.config or {},
            runtime=host.runtime,
            extra_ids=list(image.extra_ids),
        )
        words = arguments(config)
        document.path, document.args = words[0], words[1:]
        document.mounts = await _mounts(cs, ns, id_, body, config)
        if call is not None:
            call.phase("resolve")
        new = _New(ns, id_, name, document, image)
        mounts = await engine.files(_make_files, cs, new)
        if call is not None:
            call.phase("files")
        await _fill_volumes(cs, id_, document, mounts)
        container = await _record(cs, new, mounts)
        if call is not None:
            call.phase("record")
    except BaseException:
        cs.free_name(ns, name)
        cs.ids.release(id_)
        await engine.files(_remove_files, cs, ns, id_, image.snapshotter)
        await engine.volumes.release(id_, remove_anonymous=True, ns=ns)
        raise
    cs.add(container)
    cs.publish(container, "/containers/create", {"id": id_, "image": image.name})
    if host.auto_remove:
        cs.parking.expect(container)
    return container, warnings


def settle_host_config(cs: Containers, ns: str, body: ContainerCreateBody) -> HostConfig:
    """Defaults of the configuration, and ids for names of containers. Raises NotFound, InvalidArgument."""
    config, host = cs.engine.config, body.host_config
    host.network_mode = _NETWORK_NAMES.get(host.network_mode, host.network_mode)
    host.shm_size = host.shm_size or SHM_SIZE
    host.ipc_mode = host.ipc_mode or "private"
    host.cgroupns_mode = host.cgroupns_mode or (
        "host" if host.privileged and cs.host().cgroup_version == 1 else "private"
    )
    host.runtime = host.runtime or config.runtime
    if host.init and host.runtime != OWN_RUNTIME:
        raise Unsupported(
            f"add an init process: runtime {host.runtime!r} has none", hint=f"leave --runtime out, or use {OWN_RUNTIME}"
        )
    if not host.log_config.type:
        host.log_config = LogConfig(config.log_driver, dict(config.log_opts))
    log_options.check(host.log_config.type, host.log_config.config or {})
    for field in _JOINING:
        mode = getattr(host, field)
        owner = namespaces.joined(mode)
        if owner:
            setattr(host, field, f"container:{cs.find(ns, owner).id}")
    if namespaces.joined(host.ipc_mode):
        raise Unsupported(
            "join the ipc namespace of another container: its /dev/shm cannot be shared yet",
            hint="leave --ipc out, or use --ipc=host",
        )
    return host


def choose_userns(cs: Containers, host: HostConfig) -> Userns:
    """Whose user namespace, without ids yet. Raises InvalidArgument, FailedPrecondition."""
    asked = host.userns_mode
    if not asked and cs.engine.config.userns == "host":
        host.userns_mode = "host"
    owners = {o for field in _JOINING if (o := namespaces.joined(getattr(host, field)))}
    owner_has: bool | None = None
    for container in cs.all():
        if container.id in owners:
            owner_has = container.userns_mode != "host"
    choice = namespaces.userns_choice(host, cs.host(), owner_has_userns=owner_has)
    host.userns_mode = asked
    return Userns(choice.mode, choice.owner, choice.reason)


def _hostname(cs: Containers, ns: str, id_: str, host: HostConfig, config: Config) -> tuple[str, str]:
    owner = namespaces.joined(host.network_mode)
    if owner:
        other = cs.find(ns, owner).document().config
        return other.hostname, other.domainname
    if config.hostname:
        return config.hostname, config.domainname
    if host.network_mode == "host" or host.uts_mode == "host":
        return host_names.node(), config.domainname
    return id_[:12], config.domainname


async def _mounts(cs: Containers, ns: str, id_: str, body: ContainerCreateBody, config: Config) -> list[MountPoint]:
    requests = oci_mounts.parse_mounts(body, config)
    points: list[MountPoint] = []
    targets = {r.target for r in requests if r.origin not in {"image", "config"}}
    for text, readonly in oci_mounts.volumes_from(body.host_config.volumes_from):
        for point in cs.find(ns, text).document().mounts:
            if point.request.type == "tmpfs" or point.request.target in targets:
                continue
            targets.add(point.request.target)
            request = point.request._replace(readonly=point.request.readonly or readonly, origin="volumes-from")
            if point.name:
                await cs.engine.volumes.acquire(point.name, id_, ns=ns)
            points.append(MountPoint(request, point.source, point.idmap, point.name, point.driver, point.anonymous))
    taken = {p.request.target for p in points}
    for request in requests:
        if request.target in taken:
            continue
        if request.type == "volume":
            points.append(await _volume(cs, ns, id_, request))
        elif request.type == "bind":
            source, idmap = await cs.engine.files(bind_source, request)
            points.append(MountPoint(request, source, idmap))
        else:
            points.append(MountPoint(request))
    points.sort(key=lambda p: p.request.target.count("/"))
    return points


async def _volume(cs: Containers, ns: str, id_: str, request: MountRequest) -> MountPoint:
    volumes = cs.engine.volumes
    volume = await volumes.create(
        request.source,
        driver=request.driver,
        options=request.driver_opts,
        labels=request.labels,
        container_id=id_,
        ns=ns,
    )
    source = volumes.source(volume)
    idmap = volume.idmap and await cs.engine.files(can_idmap, source)
    if request.subpath:
        source = await cs.engine.files(volume_subpath, volume.name, source, request.subpath)
    return MountPoint(request, source, idmap, volume.name, volume.driver, volume.anonymous)


def _make_files(cs: Containers, new: _New) -> list[Mount]:
    """Snapshot and bundle. Blocking. Fills in user and ids of the document."""
    ns, id_, name, document, image = new
    engine = cs.engine
    snapshotter = engine.snapshotters.get(image.snapshotter)
    if snapshotter is None:
        raise FailedPrecondition(f"create container: snapshotter {image.snapshotter!r} of its image is not there")
    mounts = snapshotter.prepare(id_, image.chain_id)
    host = document.host_config
    document.user = rootfs_user.resolve(document.config.user, host.group_add or (), mounts, image.chain_id or "scratch")
    give_ids(cs, id_, document)
    spec = make_spec(cs, ns, id_, name, document, join=None)
    files = bundle.Files(
        (document.config.hostname + "\n").encode(),
        bundle.hosts_file(document.config.hostname, document.config.domainname, host.extra_hosts or ()),
        bundle.resolv_conf(host, host_network=host.network_mode == "host"),
    )
    bundle.write(engine.config.bundle(ns, id_), files, spec)
    return mounts


def give_ids(cs: Containers, id_: str, document: Document) -> None:
    """Allocate host ids where the container has a user namespace of its own."""
    if document.userns.mode != "own":
        return
    extra = {document.user.uid, *document.user.additional_gids, *document.extra_ids}
    for point in document.mounts:
        if point.source and point.idmap:
            found = os.stat(point.source)
            extra |= {found.st_uid, found.st_gid}
    reason = document.userns.reason
    document.userns = cs.ids.allocate(id_, extra)
    document.userns.reason = reason


def make_spec(
    cs: Containers, ns: str, id_: str, name: str, document: Document, *, join: dict[str, str] | None
) -> bytes:
    """config.json. `join` is None before the start: paths of other containers' namespaces are not known yet."""
    config, host = cs.engine.config, document.host_config
    if join is None:
        join = {kind: "/proc/self/ns/" + kind for kind in ("network", "pid", "ipc") if _joins(host, kind)}
    directory = config.bundle(ns, id_)
    shares = bool(namespaces.joined(host.network_mode))
    files_of = config.bundle(ns, namespaces.joined(host.network_mode)) if shares else directory
    mappings = document.userns.mappings()
    if document.userns.mode == "container":
        mappings = cs.find(ns, document.userns.owner).document().userns.mappings()
    inputs = specgen.SpecInputs(
        container_id=id_,
        name=name,
        body=document.body(),
        config=document.config,
        user=document.user,
        host=cs.host(),
        mounts=[ResolvedMount(p.request, p.source, p.idmap) for p in document.mounts],
        hostname_path=f"{files_of}/hostname",
        hosts_path=f"{files_of}/hosts",
        resolv_conf_path=f"{files_of}/resolv.conf",
        id_mappings=mappings,
        join=join,
        cgroups_path=cgroups_path(
            id_, host.cgroup_parent, default_parent=config.cgroup_parent, driver=cs.host().cgroup_driver
        ),
    )
    return encode_spec(specgen.build_spec(inputs))


def _joins(host: HostConfig, kind: str) -> bool:
    return bool(namespaces.joined({"network": host.network_mode, "pid": host.pid_mode, "ipc": host.ipc_mode}[kind]))


async def _fill_volumes(cs: Containers, id_: str, document: Document, mounts: list[Mount]) -> None:
    wanted = [
        (p.name, p.request.target)
        for p in document.mounts
        if p.name and not p.request.nocopy and not p.request.subpath and p.request.origin != "volumes-from"
    ]
    if wanted and document.chain_id is not None:
        await cs.engine.volumes.copy_up(id_, mounts, wanted)


async def _record(cs: Containers, new: _New, mounts: list[Mount]) -> Container:
    ns, id_, name, document, image = new
    raw = records.encode(document)
    row = rows.ContainerRow(
        ns, id_, name, image.name, document.runtime, image.snapshotter, id_, document.config.labels or {},
        {rows.EXTENSION_DOCKER: raw}, document.created_ns / 1e9,
    )  # fmt: skip
    things = list(image.refs) or [Ref(KIND_BLOB, image.target.digest), Ref(KIND_BLOB, image.manifest.digest)]
    if image.chain_id:
        things.append(Ref(KIND_SNAPSHOT, image.chain_id))
    try:
        await cs.engine.committed(cs.engine.db.submit(lambda db: rows.insert(db, row, things)))
    except Conflict as e:
        raise Conflict(f'the container name "/{name}" is already in use') from e
    container = Container(ns, id_, name, document, state=State(), snapshotter=image.snapshotter, raw=raw)
    container.rootfs = mounts
    return container


def _remove_files(cs: Containers, ns: str, id_: str, snapshotter: str) -> None:
    """Undo `_make_files`, as far as it came. Blocking."""
    bundle.remove(cs.engine.config.bundle(ns, id_))
    found = cs.engine.snapshotters.get(snapshotter)
    if found is not None:
        try:
            found.remove(id_)
        except NotFound:
            pass
