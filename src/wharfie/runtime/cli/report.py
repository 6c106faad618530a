# SPDX-License-Identifier: Apache-2.0
"""state list ps events features spec."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import os
import select
import subprocess

import msgspec

from wharfie import __version__
from wharfie.errdefs import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from wharfie.fsutil import atomic
from wharfie.linux import caps
from wharfie.mount.options import known_words
from wharfie.runtime.cli.flags import Flags
from wharfie.runtime.cli.lifecycle import _one_id, open_engine
from wharfie.runtime.cli.store import Store
from wharfie.runtime.linux.engine import LinuxEngine
from wharfie.runtime.linux.process import RLIMITS
from wharfie.runtime.linux.seccomp import ACTIONS
from wharfie.runtime.linux.template import template


def _print(document: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def _state(store: Store, container_id: str) -> dict[str, object]:
    engine, record, status = open_engine(store, container_id)
    assert engine.plan is not None
    document: dict[str, object] = {
        "ociVersion": "1.2.0",
        "id": record.id,
        "pid": record.pid if status != "stopped" else 0,
        "status": status,
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "owner": record.owner,
    }
    if engine.plan.spec.annotations:
        document["annotations"] = engine.plan.spec.annotations
    return document


def state(flags: Flags, own: Flags, args: list[str]) -> int:
    _print(_state(Store(flags.text("root")), _one_id(args, "state")))
    return 0


def list_(flags: Flags, own: Flags, args: list[str]) -> int:
    store = Store(flags.text("root"))
    found = []
    for container_id in store.ids():
        try:
            found.append(_state(store, container_id))
        except NotFound:
            continue  # deleted since the look
    if own.on("quiet"):
        print("\n".join(str(d["id"]) for d in found))
    elif own.text("format") == "json":
        print(msgspec.json.encode(found or None).decode())
    elif own.text("format", "table") == "table":
        print(f"{'ID':<24}{'PID':<12}{'STATUS':<12}{'BUNDLE':<40}{'CREATED':<32}OWNER")
        for d in found:
            print(
                f"{d['id']!s:<24}{d['pid']!s:<12}{d['status']!s:<12}{d['bundle']!s:<40}{d['created']!s:<32}{d['owner']}"
            )
    else:
        raise InvalidArgument(f"use --format `{own.text('format')}`: table or json")
    return 0


def ps(flags: Flags, own: Flags, args: list[str]) -> int:
    if not args:
        raise InvalidArgument("read arguments: `ps` takes a container id")
    engine, _, _ = open_engine(Store(flags.text("root")), args[0])
    pids = engine.pids()
    if own.text("format") == "json":
        print(msgspec.json.encode(pids).decode())
        return 0
    if own.text("format", "table") != "table":
        raise InvalidArgument(f"use --format `{own.text('format')}`: table or json")
    wanted = args[1:] or ["-ef"]
    try:
        out = subprocess.run(["ps", *wanted], capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError) as e:
        raise FailedPrecondition(f"run `ps {' '.join(wanted)}`: {e}") from e
    column = out[0].split().index("PID") if "PID" in out[0].split() else -1
    if column < 0:
        raise InvalidArgument(f"run `ps {' '.join(wanted)}`: its output has no column PID")
    print(out[0])
    for line in out[1:]:
        if int(line.split()[column]) in pids:
            print(line)
    return 0


def _stats(engine: LinuxEngine, container_id: str) -> dict[str, object]:
    s = engine.stats()
    return {
        "type": "stats",
        "id": container_id,
        "data": {
            "cpu": {
                "usage": {"total": s.cpu_usage_ns, "kernel": s.cpu_kernel_ns, "user": s.cpu_user_ns},
                "throttling": {
                    "periods": s.periods, "throttledPeriods": s.throttled_periods, "throttledTime": s.throttled_ns,
                },
            },
            "memory": {
                "cache": s.memory_cache_bytes,
                "usage": {"limit": s.memory_limit_bytes, "usage": s.memory_usage_bytes},
                "swap": {"usage": s.swap_usage_bytes},
                "raw": s.raw.get("memory.stat", {}),
            },
            "pids": {"current": s.pids_current, "limit": max(s.pids_limit, 0)},
            "blkio": {
                "ioServiceBytesRecursive": [
                    {"major": a, "minor": b, "op": op.capitalize(), "value": n} for a, b, op, n in s.blkio
                ]
            },
        },
    }  # fmt: skip


def _interval_ms(text: str) -> int:
    units = {"ms": 1, "s": 1000, "m": 60000}
    for unit, factor in units.items():
        if text.endswith(unit) and text[: -len(unit)].replace(".", "", 1).isdigit():
            return int(float(text[: -len(unit)]) * factor)
    raise InvalidArgument(f"use --interval `{text}`: a duration such as 5s")


def events(flags: Flags, own: Flags, args: list[str]) -> int:
    """Statistics once (--stats) or at an interval, and OOM kills as they happen, until the container ends."""
    container_id = _one_id(args, "events")
    engine, _, status = open_engine(Store(flags.text("root")), container_id)
    if status == "stopped":
        raise FailedPrecondition(f"watch container `{container_id}`: it is stopped")
    interval = _interval_ms(own.text("interval", "5s"))
    print(msgspec.json.encode(_stats(engine, container_id)).decode(), flush=True)
    if own.on("stats"):
        return 0
    oom = engine.oom_fd()
    poll = select.poll()
    end = engine.watch_fd()
    poll.register(end, select.POLLIN)
    if oom is not None:
        poll.register(oom, select.POLLIN)
    kills = engine.stats().oom_kills
    while True:
        ready = {fd for fd, _ in poll.poll(interval)}
        if oom is not None and oom in ready:
            os.read(oom, 4096)
            if engine.stats().oom_kills > kills:
                kills = engine.stats().oom_kills
                print(msgspec.json.encode({"type": "oom", "id": container_id}).decode(), flush=True)
        if end in ready:
            return 0
        if not ready:
            print(msgspec.json.encode(_stats(engine, container_id)).decode(), flush=True)


def features(flags: Flags, own: Flags, args: list[str]) -> int:
    _print(
        {
            "ociVersionMin": "1.0.0",
            "ociVersionMax": "1.2.0",
            "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
            "mountOptions": known_words(),
            "linux": {
                "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
                "capabilities": list(caps.NAMES),
                "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": True},
                "seccomp": {
                    "enabled": True,
                    "actions": sorted(ACTIONS),
                    "operators": [f"SCMP_CMP_{op}" for op in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")],
                    "archs": [f"SCMP_ARCH_{a}" for a in ("X86_64", "X86", "X32", "AARCH64", "ARM")],
                },
                "apparmor": {"enabled": os.path.exists("/sys/kernel/security/apparmor")},
                "selinux": {"enabled": os.path.exists("/sys/fs/selinux/enforce")},
                "intelRdt": {"enabled": False},
                "mountExtensions": {"idmap": {"enabled": True}},
                "rlimits": sorted(RLIMITS),
            },
            "annotations": {"io.wharfie.version": __version__},
        }
    )
    return 0


def spec(flags: Flags, own: Flags, args: list[str]) -> int:
    path = os.path.join(own.text("bundle") or ".", "config.json")
    if os.path.exists(path):
        raise AlreadyExists(f"write `{path}`: it exists", hint="remove it first")
    document = template(rootless=own.on("rootless"))
    atomic.write(path, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n", 0o644)
    return 0
