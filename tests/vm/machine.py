# SPDX-License-Identifier: Apache-2.0
"""One QEMU guest under TCG that reports by its serial console, line by line."""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

MARK = "WHARFIE-VM "
_APPEND = (
    "console=ttyS0 quiet panic=-1 reboot=t nokaslr mitigations=off cryptomgr.notests noreplace-smp "
    "random.trust_cpu=on systemd.show_status=0 systemd.log_level=warning"
)


class Report(NamedTuple):
    """`results`: step -> "" where it went well, else what went wrong. `finished`: the guest came to its end."""

    results: dict[str, str]
    seconds: dict[str, float]
    finished: bool
    console: str

    def explain(self) -> str:
        return "\n".join(self.console.splitlines()[-60:])


def boot(
    vmlinux: Path, initrd: Path, root: Path, payload: Path, *, init: str, arguments: str = "", timeout_s: float = 150
) -> Report:
    """Boot, follow the console until the guest powers off, and return what it said. Never leaves a process behind."""
    command = [
        "qemu-system-x86_64", "-M", "q35,usb=off,vmport=off,smbus=off,sata=off,i8042=off", "-accel", "tcg,thread=multi",
        "-cpu", "max,la57=off", "-smp", "2", "-m", "1024", "-nodefaults", "-no-user-config", "-display", "none",
        "-no-reboot", "-serial", "stdio", "-kernel", str(vmlinux), "-initrd", str(initrd),
        "-append", f"{_APPEND} wharfie_init={init} {arguments}",
        "-drive", f"file={root},format=raw,if=none,id=root,snapshot=on,cache=unsafe",
        "-device", "virtio-blk-pci,drive=root", "-object", "rng-random,id=rng,filename=/dev/urandom",
        "-drive", f"file={payload},format=raw,if=none,id=payload,readonly=on",
        "-device", "virtio-blk-pci,drive=payload", "-device", "virtio-rng-pci,rng=rng",
    ]  # fmt: skip
    qemu = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": "/var/tmp"},
    )
    assert qemu.stdout
    console, deadline = b"", time.monotonic() + timeout_s
    try:
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([qemu.stdout], [], [], left)[0]:
                break
            chunk = os.read(qemu.stdout.fileno(), 65536)
            if not chunk:
                break
            console += chunk
    finally:
        qemu.kill()
        qemu.wait()
        qemu.stdout.close()
    return parse(console.decode(errors="replace"))


def parse(console: str) -> Report:
    """Lines of the guest: `ok NAME SECONDS`, `fail NAME what\\nwent wrong`, `end`."""
    results: dict[str, str] = {}
    seconds: dict[str, float] = {}
    finished = False
    for line in console.replace("\r", "").splitlines():
        _, mark, rest = line.partition(MARK)
        if not mark:
            continue
        verb, _, rest = rest.partition(" ")
        name, _, detail = rest.partition(" ")
        if verb == "ok":
            results[name], seconds[name] = "", float(detail)
        elif verb == "fail":
            results[name] = detail.replace("\\n", "\n") or "no reason given"
        elif verb == "end":
            finished = True
    return Report(results, seconds, finished, console)
