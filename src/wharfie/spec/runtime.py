# SPDX-License-Identifier: Apache-2.0
"""OCI runtime-spec 1.2 `config.json` as typed values (Linux parts; other platforms' parts pass through as raw JSON).

`decode_spec(bytes) -> Spec` raises InvalidArgument; `encode_spec(Spec) -> bytes` leaves defaults out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from wharfie.errdefs import InvalidArgument

OCI_VERSION = "1.2.0"


class _S(msgspec.Struct, omit_defaults=True, rename="camel"):
    pass


class Box(_S):
    height: int
    width: int


class User(_S):
    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: list[int] = []
    username: str = ""


class Capabilities(_S):
    bounding: list[str] = []
    effective: list[str] = []
    inheritable: list[str] = []
    permitted: list[str] = []
    ambient: list[str] = []


class Rlimit(_S):
    type: str
    hard: int
    soft: int


class IOPriority(_S):
    class_: str = msgspec.field(name="class", default="")
    priority: int = 0


class Scheduler(_S):
    policy: str
    nice: int = 0
    priority: int = 0
    flags: list[str] = []
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class ExecCPUAffinity(_S):
    initial: str = ""
    final: str = ""


class Process(_S):
    cwd: str
    args: list[str] = []
    terminal: bool = False
    console_size: Box | None = None
    user: User = msgspec.field(default_factory=User)
    env: list[str] = []
    capabilities: Capabilities | None = None
    rlimits: list[Rlimit] = []
    no_new_privileges: bool = False
    apparmor_profile: str = msgspec.field(name="apparmorProfile", default="")
    oom_score_adj: int | None = None
    selinux_label: str = ""
    io_priority: IOPriority | None = None
    scheduler: Scheduler | None = None
    exec_cpu_affinity: ExecCPUAffinity | None = msgspec.field(name="execCPUAffinity", default=None)
    command_line: str = ""


class Root(_S):
    path: str
    readonly: bool = False


class IDMapping(_S):
    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int = 0


class Mount(_S):
    destination: str
    type: str = ""
    source: str = ""
    options: list[str] = []
    uid_mappings: list[IDMapping] = []
    gid_mappings: list[IDMapping] = []


class Hook(_S):
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class Hooks(_S):
    prestart: list[Hook] = []
    create_runtime: list[Hook] = []
    create_container: list[Hook] = []
    start_container: list[Hook] = []
    poststart: list[Hook] = []
    poststop: list[Hook] = []


class Namespace(_S):
    type: str
    path: str = ""


class Device(_S):
    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceCgroup(_S):
    allow: bool
    type: str = ""
    major: int | None = None
    minor: int | None = None
    access: str = ""


class Memory(_S):
    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = msgspec.field(name="kernelTCP", default=None)
    swappiness: int | None = None
    disable_oom_killer: bool = msgspec.field(name="disableOOMKiller", default=False)
    use_hierarchy: bool = False
    check_before_update: bool = False


class CPU(_S):
    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class Pids(_S):
    limit: int | None = None


class WeightDevice(_S):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(_S):
    major: int
    minor: int
    rate: int = 0


class BlockIO(_S):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: list[WeightDevice] = []
    throttle_read_bps_device: list[ThrottleDevice] = msgspec.field(name="throttleReadBpsDevice", default=[])
    throttle_write_bps_device: list[ThrottleDevice] = msgspec.field(name="throttleWriteBpsDevice", default=[])
    throttle_read_iops_device: list[ThrottleDevice] = msgspec.field(name="throttleReadIOPSDevice", default=[])
    throttle_write_iops_device: list[ThrottleDevice] = msgspec.field(name="throttleWriteIOPSDevice", default=[])


class HugepageLimit(_S):
    page_size: str
    limit: int


class InterfacePriority(_S):
    name: str
    priority: int


class NetworkResources(_S):
    class_id: int | None = msgspec.field(name="classID", default=None)
    priorities: list[InterfacePriority] = []


class Rdma(_S):
    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(_S):
    devices: list[DeviceCgroup] = []
    memory: Memory | None = None
    cpu: CPU | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = msgspec.field(name="blockIO", default=None)
    hugepage_limits: list[HugepageLimit] = []
    network: NetworkResources | None = None
    rdma: dict[str, Rdma] = {}
    unified: dict[str, str] = {}


class SeccompArg(_S):
    index: int
    value: int
    op: str
    value_two: int = 0


class SeccompSyscall(_S):
    names: list[str]
    action: str
    errno_ret: int | None = None
    args: list[SeccompArg] = []


class Seccomp(_S):
    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] = []
    flags: list[str] = []
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[SeccompSyscall] = []


class TimeOffset(_S):
    secs: int = 0
    nanosecs: int = 0


class Personality(_S):
    domain: str
    flags: list[str] = []


class IntelRdt(_S):
    clos_id: str = msgspec.field(name="closID", default="")
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    enable_cmt: bool = msgspec.field(name="enableCMT", default=False)
    enable_mbm: bool = msgspec.field(name="enableMBM", default=False)


class Linux(_S):
    uid_mappings: list[IDMapping] = []
    gid_mappings: list[IDMapping] = []
    sysctl: dict[str, str] = {}
    resources: Resources | None = None
    cgroups_path: str = ""
    namespaces: list[Namespace] = []
    devices: list[Device] = []
    net_devices: dict[str, Any] = {}
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: list[str] = []
    readonly_paths: list[str] = []
    mount_label: str = ""
    intel_rdt: IntelRdt | None = None
    personality: Personality | None = None
    time_offsets: dict[str, TimeOffset] = {}


class Spec(_S):
    oci_version: str = msgspec.field(default_factory=lambda: OCI_VERSION)  # a factory, so that it is always written
    process: Process | None = None
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: list[Mount] = []
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}
    linux: Linux | None = None
    windows: Any = None
    vm: Any = None


class State(_S):
    """runtime-spec runtime.md, "State": what hooks and `state` see. `status`: creating created running stopped (paused)."""

    id: str
    status: str
    bundle: str
    pid: int = 0
    oci_version: str = msgspec.field(default_factory=lambda: OCI_VERSION)  # a factory, so that it is always written
    annotations: dict[str, str] = {}


_encoder = msgspec.json.Encoder()
_spec_decoder = msgspec.json.Decoder(Spec)
_process_decoder = msgspec.json.Decoder(Process)


def decode_spec(data: bytes) -> Spec:
    """Parse config.json. Raises InvalidArgument naming the field."""
    try:
        return _spec_decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as e:
        raise InvalidArgument(f"read config.json: {e}", hint="see runtime-spec config.md for the field's type") from e


def decode_process(data: bytes) -> Process:
    """Parse a process document, as `exec --process` takes it. Raises InvalidArgument."""
    try:
        return _process_decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as e:
        raise InvalidArgument(f"read process document: {e}") from e


def encode_spec(spec: Spec | Process | State) -> bytes:
    """JSON bytes with defaults left out. `linux.resources` nulls and empty lists vanish: both mean "not set"."""
    return _encoder.encode(spec)
