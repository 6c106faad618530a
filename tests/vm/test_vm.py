# SPDX-License-Identifier: Apache-2.0
"""Hosts other than this one: Debian's stock kernel with cgroup v2 alone, bare and under systemd, older rungs included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import need
from vm import disks, kernel, machine

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(700)]


class Disks(NamedTuple):
    kernel: kernel.Kernel
    initrd: Path
    root: Path
    payload: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    need("qemu-system-x86_64", "debootstrap", "mke2fs", "busybox", "docker-registry", "dpkg", "apt-get")
    directory = tmp_path_factory.mktemp("vm")
    k = kernel.debian_kernel()
    initrd = directory / "initrd"
    initrd.write_bytes(disks.initramfs(k))
    payload = disks.payload_disk(directory)
    yield Disks(k, initrd, disks.root_disk(), payload)
    payload.unlink()


def steps(table: str) -> list[str]:
    """Names of the guest's steps, read from its script without running it."""
    tree = ast.parse((Path(__file__).parent / "guest/smoke.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == table:
            assert isinstance(node.value, ast.List)
            return [e.attr if isinstance(e, ast.Attribute) else e.id for e in node.value.elts]  # type: ignore[attr-defined]
    raise LookupError(table)


class Reports(NamedTuple):
    plain: machine.Report
    systemd: machine.Report


@pytest.fixture(scope="module")
def reports(built: Disks) -> Reports:
    """Both guests side by side: each keeps little more than one CPU busy."""
    k, initrd, root, payload = built

    def boot(init: str, arguments: str = "") -> machine.Report:
        return machine.boot(k.vmlinux, initrd, root, payload, init=init, arguments=arguments, timeout_s=500)

    with ThreadPoolExecutor(2) as pool:
        plain = pool.submit(boot, "/payload/guest/init")
        systemd = pool.submit(boot, "/lib/systemd/systemd", "systemd.unit=smoke.service")
        return Reports(plain.result(), systemd.result())


def check(report: machine.Report, step: str) -> None:
    found = {name.rpartition(".")[2]: what for name, what in report.results.items()}
    assert step in found, f"the guest did not come to it:\n{report.explain()}"
    assert not found[step], f"{found[step]}\n--- console:\n{report.explain()}"


@pytest.mark.parametrize("step", steps("PLAIN"))
def test_stock_kernel(reports: Reports, step: str) -> None:
    check(reports.plain, step)


@pytest.mark.parametrize("step", steps("SYSTEMD"))
def test_under_systemd(reports: Reports, step: str) -> None:
    check(reports.systemd, step)


def test_guests_end_by_themselves(reports: Reports) -> None:
    for report in reports:
        assert report.finished, report.explain()


def test_report_lines() -> None:
    report = machine.parse(
        "noise\r\nWHARFIE-VM ok a 1.5\r\n[1.0] WHARFIE-VM fail b one\\ntwo\nWHARFIE-VM fail c\nWHARFIE-VM end\n"
    )
    assert report.results == {"a": "", "b": "one\ntwo", "c": "no reason given"}
    assert report.seconds == {"a": 1.5}
    assert report.finished
    assert not machine.parse("WHARFIE-VM ok a 1").finished
