# SPDX-License-Identifier: Apache-2.0
"""Containers as JSON: one of a list, and the whole of one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from wharfie.daemon.services import containers_records as records
from wharfie.daemon.services.containers_run import log_config
from wharfie.daemon.services.times import ago, rfc3339
from wharfie.oci.namespaces import joined
from wharfie.oci.security import MASKED_PATHS, READONLY_PATHS

if TYPE_CHECKING:
    from wharfie.daemon.services.container import Container
    from wharfie.daemon.services.containers import Containers
    from wharfie.daemon.services.containers_records import Document, MountPoint, State

STATUSES = frozenset({"created", "restarting", "running", "removing", "paused", "exited", "dead"})


def status_words(container: Container, now_s: float) -> str:
    """`Up 5 minutes (healthy)`, `Exited (0) 2 hours ago`: the STATUS column."""
    state = container.state
    if container.gone:
        return "Removal In Progress"
    if state.status in {records.RUNNING, records.PAUSED}:
        words = f"Up {ago(now_s - state.started_ns / 1e9)}"
        if state.status == records.PAUSED:
            return f"{words} (Paused)"
        if container.health is not None:
            shown = "health: starting" if container.health.status == "starting" else container.health.status
            return f"{words} ({shown})"
        return words
    if state.status == records.RESTARTING:
        return f"Restarting ({state.exit_code}) {ago(now_s - state.finished_ns / 1e9)} ago"
    if state.status == records.CREATED:
        return "Created"
    if state.status == records.DEAD:
        return "Dead"
    return f"Exited ({state.exit_code}) {ago(now_s - state.finished_ns / 1e9)} ago"


def summary_document(container: Container, now_s: float) -> dict[str, Any]:
    """One row of GET /containers/json."""
    summary = container.summary
    network = summary.network
    networks = {} if joined(network) else {network: _endpoint()}
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": summary.image,
        "ImageID": summary.image_id,
        "Command": summary.command,
        "Created": container.created_ns // 10**9,
        "Ports": [_port(text) for text in summary.ports] if container.state.alive else [],
        "Labels": summary.labels,
        "State": "removing" if container.gone else container.state.status,
        "Status": status_words(container, now_s),
        "HostConfig": {"NetworkMode": network},
        "NetworkSettings": {"Networks": networks},
        "Mounts": [
            {
                "Type": kind,
                "Name": name,
                "Source": source,
                "Destination": target,
                "Driver": "local" if kind == "volume" else "",
                "Mode": "" if writable else "ro",
                "RW": writable,
                "Propagation": "rprivate" if kind == "bind" else "",
            }
            for kind, name, source, target, writable in summary.mounts
        ],
    }


def _port(text: str) -> dict[str, Any]:
    number, _, protocol = text.partition("/")
    first = number.partition("-")[0]
    return {"PrivatePort": int(first) if first.isdigit() else 0, "Type": protocol or "tcp"}


def _endpoint() -> dict[str, Any]:
    return {
        "IPAMConfig": None, "Links": None, "Aliases": None, "MacAddress": "", "DriverOpts": None, "GwPriority": 0,
        "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "",
        "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": None,
    }  # fmt: skip


def state_document(container: Container) -> dict[str, Any]:
    state: State = container.state
    document: dict[str, Any] = {
        "Status": "removing" if container.gone else state.status,
        "Running": state.status in {records.RUNNING, records.PAUSED, records.RESTARTING},
        "Paused": state.status == records.PAUSED,
        "Restarting": state.status == records.RESTARTING,
        "OOMKilled": state.oom_killed,
        "Dead": state.status == records.DEAD,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339(state.started_ns),
        "FinishedAt": rfc3339(state.finished_ns),
    }
    health = container.health
    if health is not None:
        document["Health"] = {
            "Status": health.status,
            "FailingStreak": health.failing_streak,
            "Log": [
                {
                    "Start": rfc3339(r.start_ns),
                    "End": rfc3339(r.end_ns),
                    "ExitCode": r.exit_code,
                    "Output": r.output,
                }
                for r in health.log
            ],
        }
    return document


def _mount_document(point: MountPoint) -> dict[str, Any]:
    request = point.request
    mode = request.label if request.origin == "binds" else ""
    if request.origin == "binds" and request.readonly:
        mode = f"{mode},ro" if mode else "ro"
    document: dict[str, Any] = {"Type": request.type}
    if point.name:
        document["Name"] = point.name
    document |= {"Source": point.source, "Destination": request.target}
    if point.name:
        document["Driver"] = point.driver
    document |= {
        "Mode": mode or ("z" if point.name and request.origin == "binds" else ""),
        "RW": not request.readonly,
        "Propagation": (request.propagation or "rprivate") if request.type == "bind" else "",
    }
    return document


def _host_config(document: Document) -> dict[str, Any]:
    host = document.host_config
    shown: dict[str, Any] = msgspec.to_builtins(host)
    if host.masked_paths is None:
        shown["MaskedPaths"] = None if host.privileged else list(MASKED_PATHS)
    if host.readonly_paths is None:
        shown["ReadonlyPaths"] = None if host.privileged else list(READONLY_PATHS)
    if not shown["RestartPolicy"]["Name"]:
        shown["RestartPolicy"]["Name"] = "no"
    shown["PortBindings"] = shown["PortBindings"] or {}
    shown["LogConfig"]["Config"] = shown["LogConfig"]["Config"] or {}
    if not shown["UsernsMode"] and document.userns.mode == "host" and document.userns.reason:
        shown["UsernsMode"] = "host"
    return shown


def inspect_document(cs: Containers, container: Container) -> dict[str, Any]:
    """GET /containers/{id}/json, without sizes."""
    document = container.document()
    bundle = cs.engine.config.bundle(container.ns, container.id)
    log = log_config(cs, container, document)
    config: dict[str, Any] = msgspec.to_builtins(document.config)
    config["Image"] = document.config.image
    config["Labels"] = config["Labels"] or {}
    config["Env"] = config["Env"] or []
    network = document.host_config.network_mode
    networks = {} if joined(network) else {network: _endpoint()}
    return {
        "Id": container.id,
        "Created": rfc3339(container.created_ns),
        "Path": document.path,
        "Args": document.args,
        "State": state_document(container),
        "Image": document.image_id,
        "ResolvConfPath": f"{bundle}/resolv.conf",
        "HostnamePath": f"{bundle}/hostname",
        "HostsPath": f"{bundle}/hosts",
        "LogPath": log.path if log.driver != "none" else "",
        "Name": f"/{container.name}",
        "RestartCount": container.state.restart_count,
        "Driver": container.snapshotter,
        "Platform": document.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": [id_ for id_, s in container.execs.items() if s.status == "running"] or None,
        "HostConfig": _host_config(document),
        "GraphDriver": {"Name": container.snapshotter, "Data": None},
        "Mounts": [_mount_document(p) for p in document.mounts if p.request.origin != "tmpfs"],
        "Config": config,
        "NetworkSettings": {
            "Bridge": "", "SandboxID": "", "SandboxKey": "", "Ports": {}, "HairpinMode": False,
            "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0, "SecondaryIPAddresses": None,
            "SecondaryIPv6Addresses": None, "EndpointID": "", "Gateway": "", "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0, "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "MacAddress": "",
            "Networks": networks,
        },
        "Wharfie": {
            "Userns": {
                "Mode": document.userns.mode,
                "Reason": document.userns.reason,
                "Extents": [list(e) for e in document.userns.extents],
            },
            "Runtime": document.runtime,
            "Manifest": document.manifest,
        },
    }  # fmt: skip


def now() -> float:
    return time.time()
