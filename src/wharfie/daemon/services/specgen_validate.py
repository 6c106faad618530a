# SPDX-License-Identifier: Apache-2.0
"""What a create, update or exec request must keep: nothing is accepted and then ignored."""

from __future__ import annotations

import re

from wharfie.daemon.services.specgen_config import merge_config
from wharfie.errdefs import InvalidArgument, NotFound, Unsupported
from wharfie.oci.caps import effective_caps
from wharfie.oci.devices import check_access, parse_rule
from wharfie.oci.facts import HostFacts
from wharfie.oci.mounts import parse_mounts, volumes_from
from wharfie.oci.namespaces import DEFAULT_NETWORKS, check_modes, joined, userns_choice
from wharfie.oci.resources import cgroups_path, check_resources
from wharfie.oci.seccomp import load_profile
from wharfie.oci.security import check_paths, parse_security_opts
from wharfie.oci.signals import parse_signal
from wharfie.spec.docker import Config, ContainerCreateBody, ExecConfig, HostConfig, RestartPolicy, UpdateBody
from wharfie.spec.image import ContainerConfig, Healthcheck

_HOSTNAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?", re.ASCII)
_SYSCTL = re.compile(r"[a-z0-9_]+([./-][A-Za-z0-9_*-]+)+", re.ASCII)
_IPC_SYSCTLS = frozenset({
    "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
    "kernel.shmmni", "kernel.shm_rmid_forced",
})  # fmt: skip
_MIN_HEALTH_NS = 1_000_000


def refuse_unknown(what: str, unknown: list[str]) -> None:
    """Raises InvalidArgument for fields that this engine has never heard of."""
    if unknown:
        raise InvalidArgument(
            f"{what}: unknown field {', '.join(repr(u[:100]) for u in unknown[:5])}",
            hint="remove it: this engine does not ignore what it is asked for",
        )


def check_restart(policy: RestartPolicy, *, auto_remove: bool = False) -> None:
    if policy.name not in {"", "no", "always", "unless-stopped", "on-failure"}:
        raise InvalidArgument(
            f"set restart policy {policy.name!r}: it is not known", hint="one of no, on-failure, always, unless-stopped"
        )
    if policy.maximum_retry_count < 0:
        raise InvalidArgument(f"set restart policy: maximum retry count {policy.maximum_retry_count} is negative")
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidArgument(f"set restart policy {policy.name!r}: only on-failure takes a maximum retry count")
    if auto_remove and policy.name not in {"", "no"}:
        raise InvalidArgument("set restart policy: a container that restarts cannot be removed at its exit (--rm)")


def check_health(health: Healthcheck | None) -> None:
    if health is None:
        return
    for what in ("interval", "timeout", "start_period", "start_interval"):
        value = getattr(health, what)
        if value < 0 or 0 < value < _MIN_HEALTH_NS:
            raise InvalidArgument(f"set health check: {what} {value} ns is below 1 ms")
    if health.retries < 0:
        raise InvalidArgument(f"set health check: retries {health.retries} is negative")
    if health.test and health.test[0] not in {"NONE", "CMD", "CMD-SHELL"}:
        raise InvalidArgument(f"set health check: test type {health.test[0]!r} is not NONE, CMD or CMD-SHELL")
    if health.test and health.test[0] != "NONE" and len(health.test) < 2:
        raise InvalidArgument("set health check: the test has no command")


def check_sysctls(h: HostConfig) -> None:
    """Only what a namespace of the container's own holds may be set."""
    for name, value in (h.sysctls or {}).items():
        key = name.replace("/", ".")
        if not _SYSCTL.fullmatch(name) or any(ord(c) < 32 and c != "\t" for c in value) or ".." in name:
            raise InvalidArgument(f"set sysctl {name!r}: name or value is malformed")
        if key.startswith("net."):
            if h.network_mode == "host" or joined(h.network_mode):
                raise InvalidArgument(f"set sysctl {name!r}: the container has no network namespace of its own")
        elif key in _IPC_SYSCTLS or key.startswith("fs.mqueue."):
            if h.ipc_mode == "host" or joined(h.ipc_mode):
                raise InvalidArgument(f"set sysctl {name!r}: the container has no ipc namespace of its own")
        else:
            raise InvalidArgument(
                f"set sysctl {name!r}: it belongs to the whole host",
                hint="net.*, fs.mqueue.* and kernel.{msg*,sem,shm*} are per container",
            )


def check_network(body: ContainerCreateBody) -> list[str]:
    """Until networks exist: none, host, container:X, and default, which has loopback alone."""
    h, mode = body.host_config, body.host_config.network_mode
    shared = bool(joined(mode))
    if mode not in DEFAULT_NETWORKS | {"none", "host"} and not shared:
        raise NotFound(f"use network {mode!r}: there is no such network", hint="none, host, bridge or container:<name>")
    if shared and (body.hostname or body.domainname):
        raise InvalidArgument(f"set hostname: it conflicts with --network={mode}")
    if shared and (h.dns or h.dns_search or h.dns_options or h.extra_hosts):
        raise InvalidArgument(f"set dns or hosts: they conflict with --network={mode}")
    if shared and body.exposed_ports:
        raise InvalidArgument(f"expose ports: this conflicts with --network={mode}")
    if h.publish_all_ports or any((h.port_bindings or {}).values()):
        if shared or mode == "host":
            raise InvalidArgument(f"publish ports: this conflicts with --network={mode}", hint="leave -p out")
        raise Unsupported("publish ports: networks are not there yet", hint="--network=host has the host's ports")
    if body.network_disabled and (shared or mode == "host"):
        raise InvalidArgument(f"disable the network: this contradicts --network={mode}")
    if h.links:
        raise Unsupported("link containers: links are not supported", hint="use --network=container:<name>")
    if body.mac_address:
        raise Unsupported("set MAC address: networks are not there yet", hint="leave --mac-address out")
    for name, endpoint in (body.networking_config.endpoints_config or {}).items():
        if name not in DEFAULT_NETWORKS | {"none", "host", mode}:
            raise NotFound(
                f"use network {name!r}: there is no such network", hint="none, host, bridge or container:<name>"
            )
        if endpoint is not None and (
            endpoint.ipam_config or endpoint.aliases or endpoint.links or endpoint.mac_address or endpoint.driver_opts
        ):
            raise Unsupported(f"set addresses or aliases on network {name!r}: networks are not there yet")
    if mode in DEFAULT_NETWORKS and not body.network_disabled:
        return ["networks are not there yet: the container has a network namespace of its own with loopback alone"]
    return []


def _check_identity(body: ContainerCreateBody, config: Config) -> None:
    h = body.host_config
    for what, value in (("hostname", body.hostname), ("domainname", body.domainname)):
        if value and not _HOSTNAME.fullmatch(value):
            raise InvalidArgument(f"set {what} {value!r}: it has up to 64 letters, digits, '-', '.' and '_'")
        if value and h.uts_mode == "host":
            raise InvalidArgument(f"set {what} {value!r}: it conflicts with --uts=host")
    if config.stop_signal:
        parse_signal(config.stop_signal)
    if config.stop_timeout is not None and config.stop_timeout < -1:
        raise InvalidArgument(f"set stop timeout {config.stop_timeout}: -1 waits for ever, nothing is below")
    check_health(config.healthcheck)


def _check_unsupported(h: HostConfig, host: HostFacts) -> None:
    if h.isolation not in {"", "default", "process"}:
        if h.isolation in {"hyperv", "vm"}:
            raise Unsupported(
                f"use isolation {h.isolation!r}: utility VMs are not there yet", hint="--isolation=process"
            )
        raise InvalidArgument(f"use isolation {h.isolation!r}: it is not known", hint="default or process")
    if h.storage_opt:
        raise Unsupported(f"set storage options {sorted(h.storage_opt)}: no snapshotter here takes them")
    if h.device_requests:
        raise Unsupported("request devices (--gpus): there is no device driver for it", hint="pass nodes with --device")
    if h.volume_driver not in {"", "local"}:
        raise Unsupported(f"use volume driver {h.volume_driver!r}: only local is there")
    if h.cgroup:
        raise Unsupported(f"join cgroup {h.cgroup!r}: containers have cgroups of their own", hint="--cgroup-parent")
    if h.runtime and not h.runtime.startswith("/") and h.runtime not in host.runtimes:
        raise NotFound(
            f"use runtime {h.runtime!r}: it is not configured", hint="one of " + " ".join(sorted(host.runtimes))
        )


def validate(body: ContainerCreateBody, image: ContainerConfig | None, host: HostFacts) -> list[str]:
    """Warnings about a request. Raises InvalidArgument, Unsupported, NotFound or FailedPrecondition for what cannot be."""
    h = body.host_config
    refuse_unknown("create container", body.unknown)
    config = merge_config(image, body)
    _check_unsupported(h, host)
    check_modes(h)
    _check_identity(body, config)
    choice = userns_choice(h, host)
    warnings = check_network(body)
    available = None if choice.mode == "own" else host.capabilities
    caps = frozenset(effective_caps(h.cap_add or (), h.cap_drop or (), privileged=h.privileged, available=available))
    security = parse_security_opts(h.security_opt, host)
    if security.seccomp.startswith("{"):
        load_profile(security.seccomp, host.architecture, caps, host.kernel)
    check_paths("masked path", h.masked_paths)
    check_paths("read-only path", h.readonly_paths)
    check_restart(h.restart_policy, auto_remove=h.auto_remove)
    check_sysctls(h)
    for rule in h.device_cgroup_rules or ():
        parse_rule(rule)
    for device in h.devices or ():
        check_access(device.cgroup_permissions or "rwm")
    if not -1000 <= h.oom_score_adj <= 1000:
        raise InvalidArgument(f"set oom score adjustment {h.oom_score_adj}: it goes from -1000 to 1000")
    if h.shm_size < 0:
        raise InvalidArgument(f"set shm size {h.shm_size}: it is negative")
    cgroups_path("0", h.cgroup_parent, driver=host.cgroup_driver)
    volumes_from(h.volumes_from)
    for request in parse_mounts(body, config):
        if request.driver not in {"", "local"}:
            raise Unsupported(f"use volume driver {request.driver!r}: only local is there")
        if request.label and "selinux" in host.lsm:
            raise Unsupported(f"relabel {request.source!r}: SELinux labels are not supported yet", hint="leave z out")
    return warnings + check_resources(h, host)


def validate_update(body: UpdateBody, host: HostFacts) -> list[str]:
    """Warnings about an update. Raises like `validate`."""
    refuse_unknown("update container", body.unknown)
    check_restart(body.restart_policy)
    fixed = {
        "CgroupParent": body.cgroup_parent, "Devices": body.devices, "DeviceCgroupRules": body.device_cgroup_rules,
        "DeviceRequests": body.device_requests, "Ulimits": body.ulimits, "OomKillDisable": body.oom_kill_disable,
        "MemorySwappiness": body.memory_swappiness if body.memory_swappiness != -1 else None,
    }  # fmt: skip
    given = [name for name, value in fixed.items() if value]
    if given:
        raise InvalidArgument(f"update container: only create sets {', '.join(given)}")
    return check_resources(body, host)


def validate_exec(request: ExecConfig) -> None:
    """Raises InvalidArgument."""
    refuse_unknown("create exec", request.unknown)
    if not request.cmd:
        raise InvalidArgument("create exec: there is no command to run")
    if request.working_dir and not request.working_dir.startswith("/"):
        raise InvalidArgument(f"set working directory {request.working_dir!r}: it must be absolute")
    for entry in request.env or ():
        if not entry.partition("=")[0] or "\0" in entry:
            raise InvalidArgument(f"set environment {entry.partition('=')[0]!r}: a variable is written NAME=value")
