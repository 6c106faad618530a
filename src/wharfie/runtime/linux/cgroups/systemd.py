# SPDX-License-Identifier: Apache-2.0
"""Cgroups by systemd: the container's cgroup is a transient scope, delegated to us; what is inside it is ours.

A scope has no life without a process, so it is made by `add` around the container's first one; `create` only looks
whether the name is free. systemd is told every limit that it knows, because it writes its own idea of them again at
times (`systemctl daemon-reload`, `set-property`); the files are then written as they are without systemd, which covers
what it doesn't know. The scope goes with its last process; `delete` waits for that.

Spec: org.freedesktop.systemd1(5), systemd.scope(5), systemd.resource-control(5), CGROUP_DELEGATION.md.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import os
import signal as signals
import time
from collections.abc import Sequence

from wharfie.errdefs import AlreadyExists, FailedPrecondition, NotFound, Unavailable, Unsupported
from wharfie.linux import dbus
from wharfie.linux.dbus import Variant
from wharfie.runtime.linux.cgroups.devices import rules
from wharfie.runtime.linux.cgroups.host import Hierarchy, Host
from wharfie.runtime.linux.cgroups.properties import Property, device_properties, majors, v1_properties, v2_properties
from wharfie.runtime.linux.cgroups.v1 import V1
from wharfie.runtime.linux.cgroups.v2 import V2
from wharfie.spec.runtime import Resources
from wharfie.spec.scope import Scope, read_scope

PRIVATE = "/run/systemd/private"
_BOOTED = "/run/systemd/system"
_NAME = "org.freedesktop.systemd1"
_OBJECT = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_TIMEOUT_S = 30.0
_NAMESAKE_S = 2.0


def check_host() -> None:
    """Raises Unsupported where this process cannot use the driver."""
    if not os.path.isdir(_BOOTED):
        raise Unsupported("use the systemd driver: systemd does not run this host", hint="use the cgroupfs driver")
    if os.geteuid() != 0:
        raise Unsupported("use the systemd driver: only root can, so far", hint="use the cgroupfs driver")


def connect() -> dbus.Connection:
    """To PID 1: on its own socket, else by the system bus. Raises Unavailable, PermissionDenied."""
    if os.path.exists(PRIVATE):
        return dbus.Connection.open(PRIVATE, bus=False, timeout_s=_TIMEOUT_S)
    connection = dbus.Connection.open(dbus.SYSTEM_BUS, bus=True, timeout_s=_TIMEOUT_S)
    rule = f"type='signal',interface='{_MANAGER}',member='JobRemoved'"
    bus = "org.freedesktop.DBus"
    connection.call(bus, "/org/freedesktop/DBus", bus, "AddMatch", "s", rule)
    return connection


class Unit:
    """The scope as systemd's object. A connection lives as long as one operation: systemd counts them.

    `foreign`: the name turned out to be somebody else's; it must not be stopped.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.foreign = False

    def make_way(self, *, taken: bool, pids: list[int]) -> None:
        """Raises AlreadyExists where somebody lives in the scope. An empty one is cleared away."""
        if pids:
            self.foreign = True
            raise AlreadyExists(f"create cgroup `{self.scope.path}`: unit `{self.scope.name}` is in use")
        if taken:
            self.stop()

    def start(self, pid: int, properties: Sequence[Property]) -> None:
        """Make the scope around a process and wait until it stands. Raises AlreadyExists, FailedPrecondition."""
        wanted = [
            ("Description", Variant("s", f"wharfie container {self.scope.name.removesuffix('.scope')}")),
            ("Slice", Variant("s", self.scope.slice)),
            ("PIDs", Variant("au", [pid])),
            ("Delegate", Variant("b", True)),
            ("DefaultDependencies", Variant("b", False)),
            ("CollectMode", Variant("s", "inactive-or-failed")),
            *properties,
        ]
        what = f"start unit `{self.scope.name}`"
        with connect() as c:
            c.send(_NAME, _OBJECT, _MANAGER, "Subscribe")
            deadline = time.monotonic() + _NAMESAKE_S
            while True:
                try:
                    (job,) = c.call(
                        _NAME, _OBJECT, _MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))",
                        self.scope.name, "replace", wanted, [],
                    )  # fmt: skip
                    break
                except dbus.CallFailed as e:
                    if e.name != f"{_NAME}.UnitExists":
                        raise
                    if time.monotonic() > deadline:
                        self.foreign = True
                        raise AlreadyExists(f"{what}: a unit of that name is in use") from e
                    self._forget(c)
            _, _, _, result = c.signal("JobRemoved", 1, job).body
        if result != "done":
            raise FailedPrecondition(f"{what}: systemd says {result}", hint=f"journalctl -u {self.scope.name}")

    def _forget(self, c: dbus.Connection) -> None:
        """A namesake that has failed stays until it is reset; one that has just ended needs a moment."""
        try:
            c.call(_NAME, _OBJECT, _MANAGER, "ResetFailedUnit", "s", self.scope.name)
        except dbus.CallFailed as e:
            if e.name != f"{_NAME}.NoSuchUnit":
                raise
        time.sleep(0.01)

    def set(self, properties: Sequence[Property]) -> None:
        if not properties:
            return
        with connect() as c:
            try:
                c.call(
                    _NAME, _OBJECT, _MANAGER, "SetUnitProperties", "sba(sv)", self.scope.name, True, list(properties)
                )  # fmt: skip
            except dbus.CallFailed as e:
                if e.name == f"{_NAME}.NoSuchUnit":
                    raise NotFound(f"set limits of unit `{self.scope.name}`: it is gone") from e
                raise

    def stop(self) -> None:
        """Wait until the unit is gone. Idempotent."""
        with connect() as c:
            c.send(_NAME, _OBJECT, _MANAGER, "Subscribe")
            try:
                (job,) = c.call(_NAME, _OBJECT, _MANAGER, "StopUnit", "ss", self.scope.name, "replace")
            except dbus.CallFailed as e:
                if e.name == f"{_NAME}.NoSuchUnit":
                    return
                raise
            c.signal("JobRemoved", 1, job)


class SystemdV2(V2):
    """V2 whose directory is a scope. `expected`: what the first `apply` will bring; systemd gets it at the start."""

    def __init__(self, scope: Scope, root: str, expected: Resources | None) -> None:
        super().__init__(scope.path, root)
        self.unit = Unit(scope)
        self._expected = expected

    def create(self) -> None:
        self.unit.make_way(taken=self.exists(), pids=self.pids())

    def add(self, pid: int) -> None:
        if self.exists():
            super().add(pid)
            return
        self.unit.start(pid, v2_properties(self._expected) if self._expected is not None else [])
        super().create()

    def birth_fd(self) -> int | None:
        return super().birth_fd() if self.exists() else None

    def apply(self, resources: Resources) -> list[str]:
        if resources is not self._expected:
            self.unit.set(v2_properties(resources))
        self._expected = None
        return super().apply(resources)

    def delete(self) -> None:
        if self.unit.foreign:
            return
        if self.pids():
            self.kill(signals.SIGKILL)
        _stop(self.unit)
        super().delete()


class SystemdV1(V1):
    """V1 below a scope: systemd makes it in its own hierarchy and in those that it uses, we in the others."""

    takes_itself = False

    def __init__(
        self, scope: Scope, hierarchies: Sequence[Hierarchy], unified: str, expected: Resources | None
    ) -> None:
        super().__init__(scope.path, hierarchies, unified)
        self.unit = Unit(scope)
        self._expected = expected

    def create(self) -> None:
        self.unit.make_way(taken=self.exists(), pids=self.pids())

    def add(self, pid: int) -> None:
        if not self.exists():
            self.unit.start(pid, _all_v1(self._expected) if self._expected is not None else [])
            super().create()
        super().add(pid)

    def apply(self, resources: Resources) -> list[str]:
        if resources is not self._expected:
            self.unit.set(_all_v1(resources))
        self._expected = None
        return super().apply(resources)

    def exists(self) -> bool:
        return os.path.isdir(self.directories.get("systemd") or self._any())

    def delete(self) -> None:
        if self.unit.foreign:
            return
        if self.pids():
            self.kill(signals.SIGKILL)
        _stop(self.unit)
        super().delete()


def _all_v1(r: Resources) -> list[Property]:
    """On v1 systemd writes the device list of its units again at every reload: it has to know it."""
    return v1_properties(r) + (device_properties(rules(r.devices), majors()) if r.devices else [])


def _stop(unit: Unit) -> None:
    try:
        unit.stop()
    except Unavailable:
        return  # systemd is being executed anew, and finds the scope empty by itself: its processes are dead


def open_systemd(cgroups_path: str, host: Host, expected: Resources | None = None) -> SystemdV2 | SystemdV1:
    """The manager for a `slice:prefix:name`. Raises InvalidArgument, Unsupported."""
    scope = read_scope(cgroups_path)
    check_host()
    if host.v1:
        return SystemdV1(scope, host.v1, host.unified, expected)
    return SystemdV2(scope, host.unified, expected)
