# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time

import pytest

from wharfie.cli import values
from wharfie.cli.times import timestamp
from wharfie.errdefs import InvalidArgument


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("42", 42), ("42b", 42), ("1k", 1024), ("1K", 1024), ("1kb", 1024), ("1KiB", 1024), ("32m", 32 << 20),
        ("1.5g", 3 << 29), ("2 GB", 2 << 30), ("1t", 1 << 40), ("1p", 1 << 50), ("0.5k", 512),
    ],
)  # fmt: skip
def test_size(text: str, size: int) -> None:
    assert values.size(text) == size


@pytest.mark.parametrize(
    "text", ["", "x", "1x", "-1", "1kk", "b", "ib", "1.", ".k", "1.2.3k", " 1", "0x10", "1e3", "²"]
)
def test_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        values.size(text)


def test_swap_may_be_unlimited() -> None:
    assert values.swap("-1") == -1
    with pytest.raises(ValueError, match="invalid size"):
        values.swap("-2")


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("0", 0), ("1s", 10**9), ("1m30s", 90 * 10**9), ("1.5h", 5400 * 10**9), ("300ms", 3 * 10**8), ("2us", 2000), ("-1s", -(10**9))],
)  # fmt: skip
def test_duration(text: str, nanoseconds: int) -> None:
    assert values.duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "s", "1x", "1s2", "-", "1..5s"])
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        values.duration(text)


@pytest.mark.parametrize(("text", "nano"), [("1", 10**9), ("1.5", 15 * 10**8), (".5", 5 * 10**8), ("0.000000001", 1)])
def test_cpus(text: str, nano: int) -> None:
    assert values.nano_cpus(text) == nano


@pytest.mark.parametrize("text", ["", "x", "-1", "1.2.3", "0.0000000001"])
def test_not_cpus(text: str) -> None:
    with pytest.raises(ValueError, match=r"number of CPUs|nine digits"):
        values.nano_cpus(text)


def test_ulimit() -> None:
    assert values.ulimit("nofile=1024:2048") == {"Name": "nofile", "Soft": 1024, "Hard": 2048}
    assert values.ulimit("core=0") == {"Name": "core", "Soft": 0, "Hard": 0}
    assert values.ulimit("memlock=-1") == {"Name": "memlock", "Soft": -1, "Hard": -1}
    for bad in ("nofile", "nofile=", "nosuch=1", "nofile=x", "nofile=2:1", "nofile=-2", "nofile=-1:5"):
        with pytest.raises(ValueError, match=r"want|no such|not a limit|above"):
            values.ulimit(bad)


def test_devices() -> None:
    assert values.device_rate("/dev/sda:1mb") == {"Path": "/dev/sda", "Rate": 1 << 20}
    assert values.device_iops("/dev/sda:100") == {"Path": "/dev/sda", "Rate": 100}
    assert values.weight_device("/dev/sda:500") == {"Path": "/dev/sda", "Weight": 500}
    for bad in ("/dev/sda", "sda:1", "/dev/sda:"):
        with pytest.raises(ValueError, match="bad format"):
            values.device_rate(bad)
    with pytest.raises(ValueError, match="between 10 and 1000"):
        values.weight_device("/dev/sda:5")


def test_filters() -> None:
    assert values.filters([]) == ""
    pairs = [values.filter_("name=a"), values.filter_("name=b"), values.filter_("label=x=y")]
    assert values.filters(pairs) == '{"name":{"a":true,"b":true},"label":{"x=y":true}}'
    with pytest.raises(ValueError, match="invalid filter"):
        values.filter_("name")


def test_timestamp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert timestamp("", "--since") == ""
    assert timestamp("1700000000.5", "--since") == "1700000000.5"
    assert timestamp("2023-11-14T22:13:20Z", "--since") == "1700000000.000000000"
    assert timestamp("2023-11-15T00:13:20.25+02:00", "--since") == "1700000000.250000000"
    assert timestamp("2023-11-14", "--since") == "1699920000.000000000"
    assert abs(float(timestamp("10m", "--since")) - (time.time() - 600)) < 5
    with pytest.raises(InvalidArgument, match="not a time"):
        timestamp("yesterday", "--since")
