# SPDX-License-Identifier: Apache-2.0
"""-v, --mount, --tmpfs and image volumes -> MountRequest, and the default mounts."""

from __future__ import annotations

from typing import NamedTuple


class MountRequest(NamedTuple):
    """One mount as asked for, from whatever flag. `options` are mount(2)-like words for a tmpfs.

    `type`: bind, volume, tmpfs. `source`: host path, volume name or "" (anonymous volume).
    `create_source`: make a missing host directory (-v does, --mount does not).
    `propagation`: "" is rprivate. `recursive_readonly`: "" best effort, "no", "force". `label`: "", "z", "Z".
    `origin`: binds, mounts, tmpfs, image (VOLUME), config (Volumes of the request).
    """

    type: str
    source: str
    target: str
    readonly: bool = False
    propagation: str = ""
    recursive: bool = True
    recursive_readonly: str = ""
    create_source: bool = False
    nocopy: bool = False
    subpath: str = ""
    driver: str = ""
    driver_opts: dict[str, str] = {}  # noqa: RUF012
    labels: dict[str, str] = {}  # noqa: RUF012
    label: str = ""
    options: tuple[str, ...] = ()
    origin: str = "binds"


class ResolvedMount(NamedTuple):
    """A MountRequest whose source is a host path now (binds and volumes alike; "" for tmpfs).

    `idmap`: map ownership with the container's id range; False where the file system cannot (owners show as 65534).
    """

    request: MountRequest
    source: str = ""
    idmap: bool = True
