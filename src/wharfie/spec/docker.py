# SPDX-License-Identifier: Apache-2.0
"""Documents of the Docker Engine API, 1.40 to 1.5x: what a client posts to make a container or an exec.

`decode_create(bytes) -> ContainerCreateBody`, `decode_exec`, `decode_update`, `decode_exec_start`. As with Go's decoder,
keys match without case, null means "not given", and Cmd, Entrypoint, CapAdd and CapDrop may be one string. Unlike it,
what is not known is kept: `unknown` holds the path of every unknown key whose value says something, so that nothing is
accepted and ignored (`specgen.validate` refuses them).

None in a list or map field is Go's nil: encoding gives null, and merging with the image tells nil from empty.
Units: sizes in bytes, cpu_period and cpu_quota in microseconds, health durations in nanoseconds.
"""

from __future__ import annotations

from typing import Any, get_args, get_origin

import msgspec

from wharfie.errdefs import InvalidArgument
from wharfie.spec.image import Healthcheck


class _S(msgspec.Struct, rename="pascal", kw_only=True):
    pass


class RestartPolicy(_S):
    """`name`: "", no, always, unless-stopped, on-failure (alone takes `maximum_retry_count`)."""

    name: str = ""
    maximum_retry_count: int = 0


class LogConfig(_S):
    type: str = ""
    config: dict[str, str] | None = None


class Ulimit(_S):
    """-1 is unlimited."""

    name: str = ""
    soft: int = 0
    hard: int = 0


class DeviceMapping(_S):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(_S):
    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = msgspec.field(name="DeviceIDs", default=None)
    capabilities: list[list[str]] | None = None
    options: dict[str, str] | None = None


class WeightDevice(_S):
    path: str = ""
    weight: int = 0


class ThrottleDevice(_S):
    path: str = ""
    rate: int = 0


class PortBinding(_S):
    host_ip: str = ""
    host_port: str = ""


class BindOptions(_S, omit_defaults=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(_S, omit_defaults=True):
    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(_S, omit_defaults=True):
    no_copy: bool = False
    labels: dict[str, str] | None = None
    driver_config: DriverConfig | None = None
    subpath: str = ""


class ImageOptions(_S, omit_defaults=True):
    subpath: str = ""


class TmpfsOptions(_S, omit_defaults=True):
    """`mode` is the plain number (0o1777 comes as 1023)."""

    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class Mount(_S, omit_defaults=True):
    """`type`: bind, volume, tmpfs, image, npipe, cluster."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    image_options: ImageOptions | None = None


class Resources(_S):
    """The limits that both create and update take."""

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = msgspec.field(name="BlkioDeviceReadIOps", default=None)
    blkio_device_write_iops: list[ThrottleDevice] | None = msgspec.field(name="BlkioDeviceWriteIOps", default=None)
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory: int = 0
    kernel_memory_tcp: int = msgspec.field(name="KernelMemoryTCP", default=0)
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = msgspec.field(name="IOMaximumIOps", default=0)
    io_maximum_bandwidth: int = msgspec.field(name="IOMaximumBandwidth", default=0)


class HostConfig(Resources):
    binds: list[str] | None = None
    container_id_file: str = msgspec.field(name="ContainerIDFile", default="")
    log_config: LogConfig = msgspec.field(default_factory=LogConfig)
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    restart_policy: RestartPolicy = msgspec.field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    mounts: list[Mount] | None = None
    console_size: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    annotations: dict[str, str] | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = msgspec.field(name="UTSMode", default="")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: bool | None = None


class EndpointIPAMConfig(_S, omit_defaults=True):
    ipv4_address: str = msgspec.field(name="IPv4Address", default="")
    ipv6_address: str = msgspec.field(name="IPv6Address", default="")
    link_local_ips: list[str] | None = msgspec.field(name="LinkLocalIPs", default=None)


class EndpointSettings(_S):
    ipam_config: EndpointIPAMConfig | None = msgspec.field(name="IPAMConfig", default=None)
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: int = 0
    network_id: str = msgspec.field(name="NetworkID", default="")
    endpoint_id: str = msgspec.field(name="EndpointID", default="")
    gateway: str = ""
    ip_address: str = msgspec.field(name="IPAddress", default="")
    ip_prefix_len: int = msgspec.field(name="IPPrefixLen", default=0)
    ipv6_gateway: str = msgspec.field(name="IPv6Gateway", default="")
    global_ipv6_address: str = msgspec.field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = msgspec.field(name="GlobalIPv6PrefixLen", default=0)
    dns_names: list[str] | None = msgspec.field(name="DNSNames", default=None)


class NetworkingConfig(_S):
    endpoints_config: dict[str, EndpointSettings | None] | None = None


class Config(_S):
    """The container's own half: what an image config also has, and stdio."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Any] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None


class ContainerCreateBody(Config):
    host_config: HostConfig = msgspec.field(default_factory=HostConfig)
    networking_config: NetworkingConfig = msgspec.field(default_factory=NetworkingConfig)
    unknown: list[str] = []

    def config(self) -> Config:
        """The Config half alone, as inspect shows it."""
        return Config(**{name: getattr(self, name) for name in Config.__struct_fields__})


class ExecConfig(_S):
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    console_size: list[int] | None = None
    detach_keys: str = ""
    tty: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    privileged: bool = False
    user: str = ""
    working_dir: str = ""
    detach: bool = False
    container: str = ""
    unknown: list[str] = []


class ExecStartConfig(_S):
    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None
    unknown: list[str] = []


class UpdateBody(Resources):
    restart_policy: RestartPolicy = msgspec.field(default_factory=RestartPolicy)
    unknown: list[str] = []


_STRING_OR_LIST = frozenset({"Cmd", "Entrypoint", "CapAdd", "CapDrop", "Shell"})

_Shape = tuple[str, str, "type[msgspec.Struct] | None"]
"""Wire name; how a nested struct is held ("" itself, "list", "map", "maplist"); its class."""
_shapes: dict[type[msgspec.Struct], dict[str, _Shape]] = {}


def _nested(hint: Any) -> tuple[str, type[msgspec.Struct] | None]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return "", hint
    origin, args = get_origin(hint), get_args(hint)
    if origin is list:
        return "list", _nested(args[0])[1]
    if origin is dict:
        inner, struct = _nested(args[1])
        return "map" + inner, struct
    for alternative in args:  # a union with None
        found = _nested(alternative)
        if found[0] or found[1]:
            return found
    return "", None


def _shape_of(struct: type[msgspec.Struct]) -> dict[str, _Shape]:
    shape = _shapes.get(struct)
    if shape is None:
        shape = {
            f.encode_name.lower(): (f.encode_name, *_nested(f.type))
            for f in msgspec.structs.fields(struct)
            if f.name != "unknown"
        }
        _shapes[struct] = shape
    return shape


def _canonical(value: Any, struct: type[msgspec.Struct], where: str, unknown: list[str]) -> Any:
    """`value` with canonical keys and without nulls; the paths of what `struct` does not know go to `unknown`."""
    if not isinstance(value, dict):
        return value
    shape = _shape_of(struct)
    out: dict[str, Any] = {}
    for key, item in value.items():
        known = shape.get(key.lower())
        if known is None:
            if item not in (None, "", 0, [], {}):
                unknown.append(where + key)
            continue
        name, held, nested = known
        if item is None:
            continue
        if name in _STRING_OR_LIST and isinstance(item, str):
            item = [item]
        elif nested is not None:
            item = _descend(item, held, nested, f"{where}{name}", unknown)
        out[name] = item
    return out


def _descend(item: Any, held: str, nested: type[msgspec.Struct], where: str, unknown: list[str]) -> Any:
    if held == "list" and isinstance(item, list):
        return [_canonical(v, nested, f"{where}[{i}].", unknown) for i, v in enumerate(item)]
    if held.startswith("map") and isinstance(item, dict):
        return {k: _descend(v, held[3:], nested, f"{where}.{k}", unknown) for k, v in item.items()}
    return _canonical(item, nested, where + ".", unknown)


def _decode(what: str, data: bytes, struct: type[msgspec.Struct]) -> Any:
    unknown: list[str] = []
    try:
        raw = msgspec.json.decode(data) if data.strip() else {}
        if not isinstance(raw, dict):
            raise InvalidArgument(f"read {what}: the body is not a JSON object")
        document: Any = msgspec.convert(_canonical(raw, struct, "", unknown), struct)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as e:
        raise InvalidArgument(f"read {what}: {e}", hint="see the Engine API reference for the field's type") from e
    document.unknown = unknown
    return document


def decode_create(data: bytes) -> ContainerCreateBody:
    """Body of POST /containers/create. Raises InvalidArgument naming the field."""
    body: ContainerCreateBody = _decode("container create request", data, ContainerCreateBody)
    return body


def decode_exec(data: bytes) -> ExecConfig:
    """Body of POST /containers/{id}/exec. Raises InvalidArgument."""
    config: ExecConfig = _decode("exec create request", data, ExecConfig)
    return config


def decode_exec_start(data: bytes) -> ExecStartConfig:
    """Body of POST /exec/{id}/start. Raises InvalidArgument."""
    config: ExecStartConfig = _decode("exec start request", data, ExecStartConfig)
    return config


def decode_update(data: bytes) -> UpdateBody:
    """Body of POST /containers/{id}/update. Raises InvalidArgument."""
    body: UpdateBody = _decode("container update request", data, UpdateBody)
    return body
