# SPDX-License-Identifier: Apache-2.0
"""New limits and restart policy for a container, running or not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wharfie.daemon.services import bundle, specgen
from wharfie.errdefs import Conflict, InvalidArgument, NotFound
from wharfie.oci import resources
from wharfie.spec.docker import Resources
from wharfie.spec.runtime import decode_spec, encode_spec

if TYPE_CHECKING:
    from wharfie.daemon.services.container import Container
    from wharfie.daemon.services.containers import Containers
    from wharfie.spec.docker import UpdateBody


async def update(cs: Containers, container: Container, body: UpdateBody) -> list[str]:
    """Merge what the request sets into the container, apply it to the running one, store it. Warnings."""
    engine = cs.engine
    warnings = specgen.validate_update(body, engine.host)
    async with container.lock:
        if container.gone:
            raise NotFound(f"no such container: {container.id}")
        document = container.document()
        host = document.host_config
        blank = Resources()
        for name in Resources.__struct_fields__:
            value = getattr(body, name)
            if value != getattr(blank, name):
                setattr(host, name, value)
        if body.restart_policy.name:
            if host.auto_remove and body.restart_policy.name != "no":
                raise InvalidArgument(
                    f"update container {container.name!r}: a restart policy contradicts --rm",
                    hint="leave --restart out",
                )
            host.restart_policy = body.restart_policy
        if body.nano_cpus and (host.cpu_period or host.cpu_quota):
            raise Conflict(
                f"update container {container.name!r}: --cpus conflicts with its cpu period and quota",
                hint="set --cpu-quota instead",
            )
        limits = resources.resources(host, os.stat)
        if container.task is not None and container.state.alive:
            wanted = resources.resources(host, os.stat)
            wanted.devices = []
            await container.task.update(encode_limits(wanted))
        directory = engine.config.bundle(container.ns, container.id)
        spec = decode_spec(await engine.files(bundle.read_config, directory))
        if spec.linux is not None:
            limits.devices = spec.linux.resources.devices if spec.linux.resources else []
            spec.linux.resources = limits
            await engine.files(bundle.write_config, directory, encode_spec(spec))
        await cs.save_document(container, document)
    cs.publish(container, "/containers/update", {"id": container.id})
    return warnings


def encode_limits(limits: object) -> bytes:
    import msgspec

    return msgspec.json.encode(limits)
