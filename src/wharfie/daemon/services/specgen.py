# SPDX-License-Identifier: Apache-2.0
"""Docker's create request, once everything in it has a number or a path, becomes config.json.

Order of use in `create`:
    config   = merge_config(image, body)              # config.hostname is set by the caller if the request has none
    warnings = validate(body, image, host)            # refuses what cannot be done
    requests = oci.mounts.parse_mounts(body, config)  # caller makes volumes, finds host paths -> ResolvedMount
    userns   = oci.namespaces.userns_choice(body.host_config, host)
    user     = oci.user.resolve_user(config.user, passwd, group, group_add)
    spec     = build_spec(SpecInputs(...))
"""

from __future__ import annotations

import msgspec

from wharfie.daemon.services.specgen_config import arguments, container_environment, merge_config
from wharfie.daemon.services.specgen_validate import validate, validate_exec, validate_update
from wharfie.errdefs import InvalidArgument
from wharfie.oci import caps, defaults, devices, namespaces, resources, seccomp, security
from wharfie.oci.facts import HostFacts
from wharfie.oci.mounts import ResolvedMount
from wharfie.oci.user import ResolvedUser
from wharfie.spec.docker import Config, ContainerCreateBody, ExecConfig
from wharfie.spec.runtime import (
    Box,
    Device,
    DeviceCgroup,
    IDMapping,
    Linux,
    Mount,
    Namespace,
    Process,
    Root,
    Seccomp,
    Spec,
    User,
)

__all__ = ["SpecInputs", "build_spec", "exec_process", "merge_config", "validate", "validate_exec", "validate_update"]

INIT_ANNOTATION = "io.wharfie.init"
"""`--init`: asks our runtime to put its own process 1 before the program (runtime.linux.init_program)."""

SPEC_VERSION = "1.1.0"
"""The oldest that has all we write (domainname, idmapped mounts): runtimes refuse what is newer than they (crun 1.8)."""


class SpecInputs(msgspec.Struct, kw_only=True):
    """All that a spec depends on. Nothing is looked up behind it but device numbers, by `look`.

    `config` is the merged one (`merge_config`); its hostname is what the container gets.
    `id_mappings`: uid and gid extents of the container's own user namespace; empty for the host's.
    `join`: namespace type (network pid ipc uts cgroup user) -> path of one to join, where the mode says container:X or
    the caller has made it (CNI). A mode "host" needs none. With pid/ipc/network container:X of an owner that has a user
    namespace, `join["user"]` and the owner's `id_mappings` are given too.
    `shm_source`: host path to bind on /dev/shm (ipc container:X), else a tmpfs is mounted.
    `hostname_path` … are the generated files to bind; "" leaves one out.
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
    look: devices.Lookup = devices.Lookup()


def _in_userns(inputs: SpecInputs) -> bool:
    return bool(inputs.id_mappings[0]) or "user" in inputs.join


def _caps(inputs: SpecInputs) -> tuple[str, ...]:
    h = inputs.body.host_config
    available = None if _in_userns(inputs) else inputs.host.capabilities
    return caps.effective_caps(h.cap_add or (), h.cap_drop or (), privileged=h.privileged, available=available)


def _process(inputs: SpecInputs, granted: tuple[str, ...], options: security.SecurityOptions) -> Process:
    h, config, user = inputs.body.host_config, inputs.config, inputs.user
    args = arguments(config)
    height, width = h.console_size if len(h.console_size) == 2 else (0, 0)
    return Process(
        cwd=config.working_dir or "/",
        args=args,
        terminal=config.tty,
        console_size=Box(height, width) if config.tty and height and width else None,
        user=User(uid=user.uid, gid=user.gid, additional_gids=list(user.additional_gids)),
        env=container_environment(config, user.home),
        capabilities=caps.capability_sets(granted, uid=user.uid),
        rlimits=resources.rlimits(h.ulimits),
        no_new_privileges=options.no_new_privileges,
        apparmor_profile="" if options.apparmor == "unconfined" else options.apparmor,
        oom_score_adj=h.oom_score_adj,
    )


def _devices(inputs: SpecInputs) -> tuple[list[Device], list[DeviceCgroup]]:
    h = inputs.body.host_config
    pairs = list(devices.mapped_devices(h.devices or (), inputs.look))
    nodes = [node for node, _ in pairs]
    if h.privileged:
        named = {node.path for node in nodes}
        nodes += [node for node in devices.host_devices(inputs.look) if node.path not in named]
    rules = devices.rules([rule for _, rule in pairs], h.device_cgroup_rules or (), privileged=h.privileged)
    return nodes, rules


def _seccomp(inputs: SpecInputs, granted: tuple[str, ...], options: security.SecurityOptions) -> Seccomp | None:
    host = inputs.host
    if options.seccomp.startswith("{"):
        return seccomp.load_profile(options.seccomp, host.architecture, frozenset(granted), host.kernel)
    if options.seccomp == "unconfined" or inputs.body.host_config.privileged or not host.seccomp:
        return None
    return seccomp.default_profile(host.architecture, frozenset(granted), host.kernel)


def _sysctls(inputs: SpecInputs) -> dict[str, str]:
    """Ports below 1024 and ping sockets need no privilege in a network namespace of the container's own."""
    h = inputs.body.host_config
    found: dict[str, str] = {}
    if h.network_mode != "host" and not namespaces.joined(h.network_mode) and inputs.host.kernel >= (4, 11):
        found["net.ipv4.ip_unprivileged_port_start"] = "0"
        gids = 2**31 - 1
        if _in_userns(inputs):
            gids = max((m.size - 1 for m in inputs.id_mappings[1] if m.container_id == 0), default=0)
        found["net.ipv4.ping_group_range"] = f"0 {gids}"
    return found | {name.replace("/", "."): value for name, value in (h.sysctls or {}).items()}


def _mounts(inputs: SpecInputs, options: security.SecurityOptions) -> list[Mount]:
    h = inputs.body.host_config
    base = defaults.default_mounts(h, shm_source=inputs.shm_source, writable_cgroups=options.writable_cgroups)
    generated = [
        ("/etc/resolv.conf", inputs.resolv_conf_path),
        ("/etc/hostname", inputs.hostname_path),
        ("/etc/hosts", inputs.hosts_path),
    ]
    return defaults.all_mounts(
        base,
        generated,
        inputs.mounts,
        mappings=inputs.id_mappings,
        readonly_rootfs=h.readonly_rootfs,
        host=inputs.host,
    )


def build_spec(inputs: SpecInputs) -> Spec:
    """config.json. Raises InvalidArgument, NotFound (a device's host path), FailedPrecondition (a capability)."""
    h = inputs.body.host_config
    options = security.parse_security_opts(h.security_opt, inputs.host)
    granted = _caps(inputs)
    nodes, rules = _devices(inputs)
    limits = resources.resources(h, inputs.look.stat)
    limits.devices = rules
    open_paths = h.privileged or options.system_paths_unconfined
    masked, readonly = h.masked_paths, h.readonly_paths
    if masked is None:
        masked = [] if open_paths else [*security.MASKED_PATHS, *inputs.host.thermal_paths]
    if readonly is None:
        readonly = [] if open_paths else list(security.READONLY_PATHS)
    own_uts = h.uts_mode != "host"
    uid_mappings, gid_mappings = inputs.id_mappings
    spaces: list[Namespace] = namespaces.namespaces(h, inputs.join, own_userns=bool(uid_mappings))
    return Spec(
        oci_version=SPEC_VERSION,
        process=_process(inputs, granted, options),
        root=Root(inputs.rootfs, h.readonly_rootfs),
        hostname=inputs.config.hostname if own_uts else "",
        domainname=inputs.config.domainname if own_uts else "",
        mounts=_mounts(inputs, options),
        annotations={**(h.annotations or {}), **({INIT_ANNOTATION: "1"} if h.init else {})},
        linux=Linux(
            # With a joined user namespace too, as containerd writes them for pods: the runtime has to know whose is what.
            uid_mappings=list(uid_mappings),
            gid_mappings=list(gid_mappings),
            sysctl=_sysctls(inputs),
            resources=limits,
            cgroups_path=inputs.cgroups_path
            or resources.cgroups_path(inputs.container_id, h.cgroup_parent, driver=inputs.host.cgroup_driver),
            namespaces=spaces,
            devices=nodes,
            seccomp=_seccomp(inputs, granted, options),
            rootfs_propagation=defaults.rootfs_propagation(inputs.mounts),
            masked_paths=list(masked),
            readonly_paths=list(readonly),
        ),
    )


def exec_process(request: ExecConfig, config: Config, spec: Spec, user: ResolvedUser, host: HostFacts) -> Process:
    """Process document of an exec in a running container.

    Shapes: `config` and `spec` are the container's, as made at create; `user` is the request's, or the container's.
    Limits, oom score and profile are the container's. --privileged gives all capabilities that the container's user
    namespace has; a seccomp filter stays the container's.
    Raises InvalidArgument.
    """
    validate_exec(request)
    container = spec.process
    if container is None or spec.linux is None:
        raise InvalidArgument("create exec: the container's spec has no process")
    if request.privileged:
        in_userns = any(n.type == "user" for n in spec.linux.namespaces)
        granted = caps.effective_caps((), (), privileged=True, available=None if in_userns else host.capabilities)
    else:
        granted = tuple(container.capabilities.bounding) if container.capabilities else ()
    settled = msgspec.structs.replace(config, tty=request.tty, env=[*(config.env or ()), *(request.env or ())])
    size = request.console_size or [0, 0]
    return Process(
        cwd=request.working_dir or config.working_dir or "/",
        args=list(request.cmd or ()),
        terminal=request.tty,
        console_size=Box(size[0], size[1]) if request.tty and len(size) == 2 and all(size) else None,
        user=User(uid=user.uid, gid=user.gid, additional_gids=list(user.additional_gids)),
        env=container_environment(settled, user.home),
        capabilities=caps.capability_sets(granted, uid=user.uid),
        rlimits=list(container.rlimits),
        no_new_privileges=container.no_new_privileges,
        apparmor_profile=container.apparmor_profile,
        oom_score_adj=container.oom_score_adj,
    )
