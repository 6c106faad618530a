# SPDX-License-Identifier: Apache-2.0
"""From the flags of `create` and `run` to the document of POST /containers/create.

Only what was asked for is sent: an engine fills in its defaults, and a short document is quick to read. Options that
stand on simple names are in one table; the others have a function each.
"""

from __future__ import annotations

import os

from wharfie.errdefs import InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Options

_CONFIG = (("hostname", "Hostname"), ("domainname", "Domainname"), ("user", "User"), ("workdir", "WorkingDir"),
           ("stop-signal", "StopSignal"), ("stop-timeout", "StopTimeout"))  # fmt: skip
_HOST = (
    ("blkio-weight", "BlkioWeight"), ("blkio-weight-device", "BlkioWeightDevice"),
    ("cgroup-parent", "CgroupParent"), ("cgroupns", "CgroupnsMode"), ("cidfile", "ContainerIDFile"),
    ("cpu-count", "CpuCount"), ("cpu-percent", "CpuPercent"), ("cpu-period", "CpuPeriod"), ("cpu-quota", "CpuQuota"),
    ("cpu-rt-period", "CpuRealtimePeriod"), ("cpu-rt-runtime", "CpuRealtimeRuntime"), ("cpu-shares", "CpuShares"),
    ("cpus", "NanoCpus"), ("cpuset-cpus", "CpusetCpus"), ("cpuset-mems", "CpusetMems"),
    ("device-cgroup-rule", "DeviceCgroupRules"), ("device-read-bps", "BlkioDeviceReadBps"),
    ("device-read-iops", "BlkioDeviceReadIOps"), ("device-write-bps", "BlkioDeviceWriteBps"),
    ("device-write-iops", "BlkioDeviceWriteIOps"), ("dns", "Dns"), ("dns-search", "DnsSearch"), ("group-add", "GroupAdd"),
    ("init", "Init"), ("io-maxbandwidth", "IOMaximumBandwidth"), ("io-maxiops", "IOMaximumIOps"), ("ipc", "IpcMode"),
    ("isolation", "Isolation"), ("kernel-memory", "KernelMemory"), ("link", "Links"), ("memory", "Memory"),
    ("memory-reservation", "MemoryReservation"), ("memory-swap", "MemorySwap"), ("memory-swappiness", "MemorySwappiness"),
    ("oom-kill-disable", "OomKillDisable"), ("oom-score-adj", "OomScoreAdj"), ("pid", "PidMode"), ("pids-limit", "PidsLimit"),
    ("privileged", "Privileged"), ("publish-all", "PublishAllPorts"), ("read-only", "ReadonlyRootfs"), ("rm", "AutoRemove"),
    ("runtime", "Runtime"), ("shm-size", "ShmSize"), ("ulimit", "Ulimits"), ("userns", "UsernsMode"), ("uts", "UTSMode"),
    ("volume-driver", "VolumeDriver"), ("volumes-from", "VolumesFrom"),
)  # fmt: skip
_MAPS = (("annotation", "Annotations"), ("storage-opt", "StorageOpt"), ("sysctl", "Sysctls"))
_SINCE = (("annotation", 43), ("health-start-interval", 44))
"""Flags that an engine of an older API (1.N) would silently ignore."""


def create_body(options: Options, image: str, command: list[str]) -> dict[str, Any]:
    """Raises: InvalidArgument, Unsupported."""
    given = options.given
    config: dict[str, Any] = {"Image": image}
    host: dict[str, Any] = {}
    if command:
        config["Cmd"] = command
    if given:
        values = options.values
        for flag, key in _CONFIG:
            if flag in given:
                config[key] = values[flag]
        for flag, key in _HOST:
            if flag in given:
                host[key] = values[flag]
        _refuse(options)
        _streams(options, config)
        if given & {"cap-add", "cap-drop"}:
            _capabilities(options, host)
        if "entrypoint" in given:
            config["Entrypoint"] = [options.text("entrypoint")]
        if given & _LESS_COMMON:
            _less_common(options, config, host)
        if given & {"volume", "mount", "tmpfs"}:
            from wharfie.cli.container import mounts

            mounts.fill(options, config, host)
        if given & _NETWORK:
            from wharfie.cli.container import network

            network.fill(options, config, host)
        if "restart" in given:
            host["RestartPolicy"] = restart_policy(options.text("restart"))
            if options.on("rm") and host["RestartPolicy"]["Name"] != "no":
                raise InvalidArgument("--rm and --restart exclude each other", hint="drop one of them")
    else:
        _streams(options, config)
    config["HostConfig"] = host  # also when empty: dockerd sets no defaults in a missing one
    return config


_LESS_COMMON = {
    "annotation", "storage-opt", "sysctl", "env", "env-file", "label", "label-file", "device", "dns-opt", "dns-option",
    "log-driver", "log-opt", "security-opt", "no-healthcheck", "health-cmd", "health-interval", "health-retries",
    "health-start-interval", "health-start-period", "health-timeout",
}  # fmt: skip
_NETWORK = {"network", "net", "network-alias", "net-alias", "ip", "ip6", "link-local-ip", "mac-address", "add-host", "publish", "expose"}  # fmt: skip


def _less_common(options: Options, config: dict[str, Any], host: dict[str, Any]) -> None:
    from wharfie.cli.container import options as more

    given = options.given
    if given & {"env", "env-file"}:
        config["Env"] = more.environment(options)
    if given & {"label", "label-file"}:
        config["Labels"] = more.labels(options)
    if "device" in given:
        more.devices(options, host)
    if given & {"dns-opt", "dns-option"}:
        host["DnsOptions"] = options.items("dns-opt") + options.items("dns-option")
    if given & {"log-driver", "log-opt"}:
        host["LogConfig"] = more.log_config(options)
    if "security-opt" in given:
        more.security(options, host)
    if health := more.health(options):
        config["Healthcheck"] = health
    if given & {name for name, _ in _MAPS}:
        from wharfie.cli.values import pairs

        for flag, key in _MAPS:
            if flag in given:
                host[key] = pairs(options.items(flag), f"--{flag}", bare=flag == "annotation")


def _capabilities(options: Options, host: dict[str, Any]) -> None:
    """Full names; ALL swallows the others; what is added is not dropped."""

    def names(flag: str) -> list[str]:
        full = [
            c.upper() if c.upper().startswith("CAP_") or c.upper() == "ALL" else f"CAP_{c.upper()}"
            for c in options.items(flag)
        ]
        return ["ALL"] if "ALL" in full else sorted(set(full))

    add, drop = names("cap-add"), names("cap-drop")
    if add:
        host["CapAdd"] = add
    if drop := drop if drop == ["ALL"] else [c for c in drop if c not in add]:
        host["CapDrop"] = drop


def _streams(options: Options, config: dict[str, Any]) -> None:
    attach = [a.lower() for a in options.items("attach")] if "attach" in options.given else []
    if bad := [a for a in attach if a not in ("stdin", "stdout", "stderr")]:
        raise InvalidArgument(f"-a `{bad[0]}`: want stdin, stdout or stderr")
    interactive = options.on("interactive")
    detached = options.values.get("detach", False)
    if detached and attach:
        raise InvalidArgument("-a and -d exclude each other", hint="drop one of them")
    if options.on("tty"):
        config["Tty"] = True
    if not detached:
        config["AttachStdout"] = not attach or "stdout" in attach
        config["AttachStderr"] = not attach or "stderr" in attach
        config["AttachStdin"] = "stdin" in attach if attach else interactive
    if interactive:
        config["OpenStdin"] = True
        config["StdinOnce"] = bool(config.get("AttachStdin"))


def _refuse(options: Options) -> None:
    given = options.given
    if "gpus" in given:
        raise Unsupported("--gpus: GPUs are not supported yet", hint="a device can be passed with --device")
    if "disable-content-trust" in given and not options.on("disable-content-trust"):
        raise Unsupported(
            "--disable-content-trust=false: content trust is not supported", hint="pin the image by digest"
        )
    if "pull" in given and options.text("pull") not in ("always", "missing", "never"):
        raise InvalidArgument(f"--pull `{options.text('pull')}`: want always, missing or never")
    if "cgroupns" in given and options.text("cgroupns") not in ("", "host", "private"):
        raise InvalidArgument(f"--cgroupns `{options.text('cgroupns')}`: want host or private")
    if "uts" in given and options.text("uts") not in ("", "host"):
        raise InvalidArgument(f"--uts `{options.text('uts')}`: want host")
    if "pid" in given:
        mode = options.text("pid")
        if mode not in ("", "host") and not (mode.startswith("container:") and mode != "container:"):
            raise InvalidArgument(f"--pid `{mode}`: want host or container:NAME")
    if "memory-swappiness" in given and not -1 <= options.number("memory-swappiness") <= 100:
        raise InvalidArgument(f"--memory-swappiness {options.number('memory-swappiness')}: want 0 to 100")
    if "oom-score-adj" in given and not -1000 <= options.number("oom-score-adj") <= 1000:
        raise InvalidArgument(f"--oom-score-adj {options.number('oom-score-adj')}: want -1000 to 1000")
    if "cidfile" in given and os.path.exists(options.text("cidfile")):
        raise InvalidArgument(
            f"--cidfile `{options.text('cidfile')}`: the file exists", hint="remove it, or name another"
        )


def restart_policy(text: str) -> dict[str, Any]:
    name, sep, count = text.partition(":")
    if name not in ("", "no", "always", "unless-stopped", "on-failure") or (sep and name != "on-failure"):
        raise InvalidArgument(f"--restart `{text}`: want no, on-failure[:N], always or unless-stopped")
    if sep and not count.isdecimal():
        raise InvalidArgument(f"--restart `{text}`: `{count}` is not a number of attempts")
    return {"Name": name or "no", "MaximumRetryCount": int(count or "0")}


def needs_api(options: Options) -> int:
    """The lowest API version (1.N) whose engines know every flag given; 0: any."""
    return max((since for flag, since in _SINCE if flag in options.given), default=0)
