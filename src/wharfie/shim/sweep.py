# SPDX-License-Identifier: Apache-2.0
"""Worker `sweep`: what a killed shim could not do any more. Idempotent; needs nothing but what lies on disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie import log
from wharfie.errdefs import WharfieError
from wharfie.fsutil import atomic
from wharfie.runtime.linux.cgroups.systemd import Unit, check_host
from wharfie.shim.sweep_others import end_stdio, sweep_external, sweep_foreign, unmount_below
from wharfie.spec.runtime import decode_spec
from wharfie.spec.scope import is_scope, read_scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_KILLED = 137
_DEADLINE_S = 10.0


def sweep(args: bytes, _fds: Sequence[int]) -> bytes:
    """Args: JSON {namespace, id, run, bundle, state, record}. Kills the container, removes cgroup, mounts and run directory."""
    a = json.loads(args)
    sweep_foreign(a["run"], a["namespace"], a["id"], a["state"])
    sweep_bundle(a["bundle"], f"{a['state']}/rootfs/{a['namespace']}/{a['id']}")
    sweep_external(a["run"], a["id"])
    end_stdio(a["run"])
    if a["record"] and os.path.isdir(a["bundle"]) and not os.path.exists(f"{a['bundle']}/exit.json"):
        document = {
            "exit_status": _KILLED, "exited_at_s": time.time(), "oom": False, "pid": 0, "error": "supervisor died",
        }  # fmt: skip
        atomic.write(f"{a['bundle']}/exit.json", json.dumps(document).encode(), 0o600, fsync=True)
    shutil.rmtree(a["run"], ignore_errors=True)
    return b""


def sweep_bundle(bundle: str, *mounted: str) -> None:
    """Kill the container of a bundle through its cgroup, then unmount its root (and what is mounted elsewhere)."""
    path = _cgroups_path(bundle)
    if is_scope(path):
        _sweep_scope(path, bundle)
    elif path.startswith("/") and path.strip("/") and ".." not in path.split("/"):
        remove_cgroup(path)
    unmount_below(f"{bundle}/rootfs", *mounted)


def _cgroups_path(bundle: str) -> str:
    try:
        with open(f"{bundle}/config.json", "rb") as f:
            spec = decode_spec(f.read())
    except (OSError, WharfieError) as e:
        log.line("warning", f"sweep: read config.json: {e}", path=bundle)
        return ""
    return spec.linux.cgroups_path if spec.linux is not None else ""


def _sweep_scope(cgroups_path: str, bundle: str) -> None:
    """Kill by the cgroup, then have the unit stopped: systemd may miss that a cgroup became empty before it went."""
    try:
        scope = read_scope(cgroups_path)
        remove_cgroup(scope.path)
        check_host()
        Unit(scope).stop()
    except (OSError, WharfieError) as e:
        log.line("warning", f"sweep: {e}", path=bundle)


def remove_cgroup(path: str) -> None:
    """Kill everything in cgroup `path` of every hierarchy, and remove it."""
    groups = [base + path for base in _hierarchies() if os.path.isdir(base + path)]
    deadline = time.monotonic() + _DEADLINE_S
    while groups and time.monotonic() < deadline:
        for group in groups:
            _kill(group)
        groups = [g for g in groups if not _remove(g)]
        if groups:
            time.sleep(0.005)


def _kill(group: str) -> None:
    try:
        with open(f"{group}/cgroup.kill", "w") as f:
            f.write("1")
        return
    except OSError:
        pass  # cgroup v1, or a kernel before 5.14: by hand
    for directory, _, _ in os.walk(group):
        try:
            with open(f"{directory}/freezer.state", "w") as f:
                f.write("THAWED")
        except OSError:
            pass  # no freezer in this hierarchy
        try:
            with open(f"{directory}/cgroup.procs") as f:
                pids = [int(line) for line in f]
        except OSError:
            continue
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _remove(group: str) -> bool:
    for directory, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def _hierarchies() -> list[str]:
    with open("/proc/self/mountinfo") as f:
        lines = [line.split() for line in f]
    return [line[4] for line in lines if line[line.index("-") + 1] in ("cgroup", "cgroup2")]
