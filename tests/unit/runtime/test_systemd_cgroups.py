# SPDX-License-Identifier: Apache-2.0
"""cgroupsPath and resources in systemd's terms. tests/vm has the real PID 1."""

from __future__ import annotations

import os

import pytest

from wharfie.errdefs import InvalidArgument, Unsupported
from wharfie.linux.dbus import Variant, marshal
from wharfie.runtime.linux.cgroups import devices, open_manager
from wharfie.runtime.linux.cgroups.properties import (
    INFINITY,
    bit_mask,
    device_properties,
    majors,
    v1_properties,
    v2_properties,
)
from wharfie.spec import runtime as s
from wharfie.spec.scope import is_scope, read_scope, slice_path

FULL = s.Resources(
    memory=s.Memory(limit=1 << 20, reservation=4096, swap=3 << 20),
    cpu=s.CPU(shares=1024, quota=33333, period=50000, cpus="0-1,8", mems="0"),
    pids=s.Pids(-1),
    block_io=s.BlockIO(
        weight=500,
        throttle_read_bps_device=[s.ThrottleDevice(8, 0, 1000), s.ThrottleDevice(8, 16, 5)],
        throttle_write_iops_device=[s.ThrottleDevice(8, 0, 0)],
    ),
    hugepage_limits=[s.HugepageLimit("2MB", 4096)],
)


def values(properties) -> dict[str, object]:
    for name, variant in properties:
        marshal("sv", name, variant)  # each fits its type
    return {name: variant.value for name, variant in properties}


@pytest.mark.parametrize(
    ("text", "unit", "path"),
    [
        ("system.slice:docker:abc", "docker-abc.scope", "/system.slice/docker-abc.scope"),
        ("a-b-c.slice:p:x", "p-x.scope", "/a.slice/a-b.slice/a-b-c.slice/p-x.scope"),
        (":wharfie:x", "wharfie-x.scope", "/system.slice/wharfie-x.scope"),
        ("-.slice::x", "x.scope", "/x.scope"),
    ],
)
def test_scopes(text: str, unit: str, path: str) -> None:
    assert read_scope(text)[1:] == (unit, path)


@pytest.mark.parametrize(
    "text",
    [
        "/a/b", "a.slice:b", "a.slice:b:c:d", "a:b:c", "a--b.slice:p:x", "-a.slice:p:x", "a-.slice:p:x", ".slice:p:x",
        "a/../b.slice:p:x", "a.slice:p:", "a.slice:p:x.slice", "a.slice:p:../x", "a.slice:p:x y", "a.slice:p:" + "x" * 250,
    ],
)  # fmt: skip
def test_no_scopes(text: str) -> None:
    with pytest.raises(InvalidArgument):
        read_scope(text)


def test_form_chooses_the_driver() -> None:
    assert not is_scope("/a:b:c")
    assert slice_path("x.slice") == "/x.slice"
    if not os.path.isdir("/run/systemd/system"):
        with pytest.raises(Unsupported, match="systemd driver"):
            open_manager("a.slice:b:c")


def test_v2_properties() -> None:
    found = values(v2_properties(FULL))
    assert found["MemoryMax"] == 1 << 20
    assert found["MemorySwapMax"] == 2 << 20
    assert found["MemoryLow"] == 4096
    assert found["CPUWeight"] == 39
    assert found["CPUQuotaPerSecUSec"] == 670_000  # 66.67 %, up
    assert found["CPUQuotaPeriodUSec"] == 50_000
    assert found["TasksMax"] == INFINITY
    assert found["AllowedCPUs"] == b"\x03\x01"
    assert found["AllowedMemoryNodes"] == b"\x01"
    assert found["IOWeight"] == 4950
    assert found["IOReadBandwidthMax"] == [("/dev/block/8:0", 1000), ("/dev/block/8:16", 5)]
    assert found["IOWriteIOPSMax"] == [("/dev/block/8:0", INFINITY)]
    assert "TasksAccounting" in found


def test_v2_unified_and_lifted_limits() -> None:
    unified = {"memory.high": "5", "cpu.max": "max 100000", "io.weight": "default 70", "cpu.weight": "much", "x.y": "1"}
    found = values(v2_properties(s.Resources(unified=unified, memory=s.Memory(limit=-1))))
    accounting = {name for name in found if name.endswith("Accounting")}
    assert {k: v for k, v in found.items() if k not in accounting} == {
        "MemoryMax": INFINITY, "MemoryHigh": 5, "CPUQuotaPerSecUSec": INFINITY, "CPUQuotaPeriodUSec": 100_000, "IOWeight": 70,
    }  # fmt: skip


def test_v1_properties() -> None:
    found = values(v1_properties(FULL))
    assert found["MemoryLimit"] == 1 << 20
    assert found["CPUShares"] == 1024
    assert found["CPUQuotaPerSecUSec"] == 670_000
    assert found["BlockIOWeight"] == 500
    assert found["TasksMax"] == INFINITY
    assert "AllowedCPUs" not in found


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("0", b"\1"),
        ("7,8", b"\x80\1"),
        ("0-15", b"\xff\xff"),
        ("", b""),
        ("x", b""),
        ("3-1", b""),
        ("0-99999999999", b""),
    ],
)
def test_bit_masks(text: str, mask: bytes) -> None:
    assert bit_mask(text) == mask


def test_device_properties() -> None:
    denied = s.DeviceCgroup(False, access="rwm")
    found = values(
        device_properties(
            devices.rules([denied, s.DeviceCgroup(True, "b", 8, None, "r")]), {("b", 8): "sd", **majors()}
        )
    )
    assert found["DevicePolicy"] == "strict"
    rows = found["DeviceAllow"]
    assert isinstance(rows, list)
    assert {("/dev/char/1:3", "mrw"), ("char-*", "m"), ("block-sd", "r"), ("char-pts", "mrw")} <= set(rows)
    everything = device_properties(devices.rules([s.DeviceCgroup(True, access="rwm")]), {})
    assert everything == [("DevicePolicy", Variant("s", "auto")), ("DeviceAllow", Variant("a(ss)", []))]
