# SPDX-License-Identifier: Apache-2.0
"""What is stored of a container beside containerd's columns: Docker's document, and the state last seen.

`Document` changes rarely (create, update, rename of nothing in it); `State` at each start and exit. Both are JSON, with
fields only ever added, so that an older record stays readable.
"""

from __future__ import annotations

import msgspec

from wharfie.oci.mounts import MountRequest
from wharfie.oci.user import ResolvedUser
from wharfie.spec.docker import Config, ContainerCreateBody, HostConfig, NetworkingConfig
from wharfie.spec.runtime import IDMapping

CREATED, RUNNING, PAUSED, RESTARTING, EXITED, DEAD = "created", "running", "paused", "restarting", "exited", "dead"


class MountPoint(msgspec.Struct, omit_defaults=True):
    """One mount of a container. `name`, `driver`: of a volume. `source`: host path, "" for a tmpfs."""

    request: MountRequest
    source: str = ""
    idmap: bool = True
    name: str = ""
    driver: str = ""
    anonymous: bool = False


class Userns(msgspec.Struct, omit_defaults=True):
    """`mode`: own, host, container (of container id `owner`). `base`: first host id of an own one.

    `extents`: (id in the container, id on the host, size), the first one being the 65536 at `base`.
    """

    mode: str = "host"
    owner: str = ""
    reason: str = ""
    base: int = 0
    extents: list[tuple[int, int, int]] = []

    def mappings(self) -> tuple[list[IDMapping], list[IDMapping]]:
        ids = [IDMapping(container_id=c, host_id=h, size=n) for c, h, n in self.extents]
        return ids, list(ids)

    def option(self) -> str:
        """The value of the mount options uidmap= and gidmap=."""
        return ";".join(f"{c}:{h}:{n}" for c, h, n in self.extents)


class Document(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`config` is merged with the image's. `host_config` holds ids where the request had names of containers."""

    version: int = 1
    config: Config
    host_config: HostConfig
    networking: NetworkingConfig = msgspec.field(default_factory=NetworkingConfig)
    created_ns: int
    image_id: str
    image_name: str = ""
    manifest: str = ""
    platform: str = "linux"
    chain_id: str | None = None
    path: str = ""
    args: list[str] = []
    mounts: list[MountPoint] = []
    userns: Userns = msgspec.field(default_factory=Userns)
    user: ResolvedUser = ResolvedUser()
    log_driver: str = ""
    log_opts: dict[str, str] = {}
    runtime: str = ""
    extra_ids: list[int] = []

    def body(self) -> ContainerCreateBody:
        """The request as it would have to be to get this very container."""
        fields = {name: getattr(self.config, name) for name in Config.__struct_fields__}
        return ContainerCreateBody(**fields, host_config=self.host_config, networking_config=self.networking)


class HealthResult(msgspec.Struct):
    start_ns: int
    end_ns: int
    exit_code: int
    output: str


class State(msgspec.Struct, omit_defaults=True):
    """`started_once` is false until a start succeeded. `stopped_by_user` keeps unless-stopped from restarting."""

    status: str = CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_ns: int = 0
    finished_ns: int = 0
    oom_killed: bool = False
    restart_count: int = 0
    started_once: bool = False
    stopped_by_user: bool = False
    boot_id: str = ""
    """Of the boot in which it was started."""

    @property
    def alive(self) -> bool:
        return self.status in {RUNNING, PAUSED}


_document = msgspec.json.Decoder(Document)
_state = msgspec.json.Decoder(State)
encode = msgspec.json.Encoder().encode


def decode_document(data: bytes) -> Document:
    return _document.decode(data)


def decode_state(data: bytes | None) -> State:
    return _state.decode(data) if data else State()
