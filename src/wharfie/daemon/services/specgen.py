# SPDX-License-Identifier: Apache-2.0
"""Docker's create request, once everything in it has a number or a path, becomes config.json.

Order of use in `create`:
    config   = merge_config(image, body)
    warnings = validate(body, image, host)            # refuses what cannot be done
    requests = oci.mounts.parse_mounts(body, config)  # caller makes volumes, finds host paths -> ResolvedMount
    userns   = oci.namespaces.userns_choice(body.host_config, host)
    user     = oci.user.resolve_user(config.user, passwd, group, group_add)
    spec     = build_spec(SpecInputs(...))
"""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from wharfie.oci.facts import HostFacts
from wharfie.oci.mounts import ResolvedMount
from wharfie.oci.user import ResolvedUser
from wharfie.spec.docker import Config, ContainerCreateBody, ExecConfig
from wharfie.spec.image import ContainerConfig
from wharfie.spec.runtime import IDMapping, Process, Spec


class SpecInputs(msgspec.Struct, kw_only=True):
    """All that a spec depends on. Nothing is looked up behind it but device numbers, by `stat` and `listdir`.

    `config` is the merged one (`merge_config`); its hostname is what the container gets.
    `id_mappings`: uid and gid extents of the container's own user namespace; empty for the host's.
    `join`: namespace type (network pid ipc uts cgroup user) -> path of one to join, where the mode says container:X or
    the caller has made it (CNI). A mode "host" needs none. With pid/ipc/network container:X of an owner that has a user
    namespace, `join["user"]` and the owner's `id_mappings` are given too.
    `shm_source`: host path to bind on /dev/shm (ipc container:X), else a tmpfs is mounted.
    `hostname_path` … are the generated files to bind; "" leaves one out. `init_path`: --init's program on the host.
    """

    container_id: str
    name: str
    body: ContainerCreateBody
    config: Config
    user: ResolvedUser
    host: HostFacts
    mounts: list[ResolvedMount] = []
    rootfs: str = "rootfs"
    hostname_path: str = ""
    hosts_path: str = ""
    resolv_conf_path: str = ""
    id_mappings: tuple[list[IDMapping], list[IDMapping]] = ([], [])
    join: dict[str, str] = {}
    shm_source: str = ""
    cgroups_path: str = ""
    init_path: str = ""
    stat: Callable[[str], os.stat_result] = os.stat
    listdir: Callable[[str], list[str]] = os.listdir


def merge_config(image: ContainerConfig | None, body: ContainerCreateBody) -> Config:
    """The container's effective Config: the request, filled from the image as dockerd does it. Raises InvalidArgument."""
    raise NotImplementedError


def validate(body: ContainerCreateBody, image: ContainerConfig | None, host: HostFacts) -> list[str]:
    """Warnings about a request. Raises InvalidArgument or Unsupported for everything that cannot be done."""
    raise NotImplementedError


def build_spec(inputs: SpecInputs) -> Spec:
    """config.json. Raises InvalidArgument, NotFound (a device's host path)."""
    raise NotImplementedError


def exec_process(config: ExecConfig, inputs: SpecInputs, spec: Spec, user: ResolvedUser) -> Process:
    """Process document of an exec: the container's environment, limits and profile, the request's program and user."""
    raise NotImplementedError
