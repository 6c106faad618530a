# SPDX-License-Identifier: Apache-2.0
"""What a guest boots from: an initramfs with modules, a Debian root disk (cached), and a payload disk with Wharfie."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from harness.images import CACHE
from vm.kernel import Kernel, locked

TOP = Path(__file__).resolve().parents[2]
_INCLUDE = "python3,systemd,systemd-sysv,kmod"
_SITE = f"lib/python3.{sys.version_info[1]}/site-packages"

_INIT = """#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev; $bb mount -t proc proc /proc; $bb mount -t sysfs sys /sys
for m in $($bb cat /modules/order); do $bb insmod /modules/$m || echo "WHARFIE-VM fail insmod $m"; done
while [ ! -e /dev/vdb ]; do $bb usleep 10000; done
$bb mount -t ext4 /dev/vda /root && $bb mkdir -p /root/payload && $bb mount -t ext4 -o ro /dev/vdb /root/payload
for m in dev proc sys; do $bb mount -o move /$m /root/$m; done
$bb mkdir -p /root/etc/systemd/system && $bb cp /root/payload/guest/*.service /root/etc/systemd/system/
$bb cp /bin/busybox /root/usr/bin/busybox; echo 127.0.0.1 localhost >/root/etc/hosts
exec $bb switch_root /root $($bb sed -n 's/.*wharfie_init=\\([^ ]*\\).*/\\1/p' /root/proc/cmdline)
"""


def _cpio_entry(name: str, mode: int, data: bytes, inode: int, rdev: tuple[int, int] = (0, 0)) -> bytes:
    """One record of the newc format (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    path = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(path), 0)
    head = b"070701" + b"".join(b"%08x" % f for f in fields) + path
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def initramfs(kernel: Kernel) -> bytes:
    out = [_cpio_entry(d, 0o040755, b"", i) for i, d in enumerate(("bin", "dev", "proc", "sys", "root", "modules"), 1)]
    files = {"init": _INIT.encode(), "bin/busybox": Path("/bin/busybox").read_bytes()}
    files["modules/order"] = "\n".join(m.name for m in kernel.modules).encode()
    files |= {f"modules/{m.name}": m.read_bytes() for m in kernel.modules}
    out += [_cpio_entry(name, 0o100755, data, 100 + i) for i, (name, data) in enumerate(files.items())]
    out.append(_cpio_entry("dev/console", 0o020600, b"", 50, (5, 1)))
    return b"".join([*out, _cpio_entry("TRAILER!!!", 0, b"", 0)])


def _ext4(tree: Path, image: Path, megabytes: int) -> None:
    with image.open("wb") as f:
        f.truncate(megabytes << 20)
    features = "^resize_inode,^has_journal,^metadata_csum"
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-O", features, "-E", "root_owner=0:0", "-d", str(tree), str(image)],
        check=True, env={**os.environ, "PATH": os.environ["PATH"] + ":/sbin:/usr/sbin"},
    )  # fmt: skip


def root_disk() -> Path:
    """A Debian with Python and systemd, made once a machine. Guests write to a throw-away overlay of it."""
    with locked("vm-root"):
        image = CACHE / "vm-root-bookworm.ext4"
        if not image.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
                tree = Path(tmp) / "tree"
                subprocess.run(
                    ["debootstrap", "--variant=minbase", f"--include={_INCLUDE}", "bookworm", str(tree)],
                    check=True, stdout=subprocess.DEVNULL,
                )  # fmt: skip
                for waste in (
                    "var/cache/apt",
                    "var/lib/apt/lists",
                    "usr/share/doc",
                    "usr/share/locale",
                    "usr/share/man",
                ):
                    shutil.rmtree(tree / waste, ignore_errors=True)
                (tree / "etc/fstab").write_text("")
                (tree / "payload").mkdir()
                part = image.with_suffix(".part")
                _ext4(tree, part, 1500)
                part.rename(image)
        return image


def runtime_distributions() -> set[str]:
    """Wharfie's dependencies and theirs, as installed here."""
    found: set[str] = set()
    todo = ["wharfie"]
    while todo:
        for text in metadata.requires(todo.pop()) or ():
            r = Requirement(text)
            if (r.marker is None or r.marker.evaluate({"extra": ""})) and r.name not in found:
                found.add(r.name)
                todo.append(r.name)
    return found


def payload_disk(directory: Path) -> Path:
    """Wharfie below a prefix of its own, as `pip install --prefix` lays it out, with what the guest's tests need."""
    tree = directory / "payload"
    site = tree / _SITE
    site.mkdir(parents=True)
    for name in sorted(runtime_distributions()):
        for file in metadata.files(name) or ():
            if ".." in file.parts:
                continue  # console scripts
            source = Path(str(file.locate()))
            target = site / str(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(TOP / "src/wharfie", site / "wharfie", ignore=ignore)
    shutil.copytree(TOP / "packaging/bin", tree / "bin")
    shutil.copytree(TOP / "packaging/systemd", tree / "systemd")
    shutil.copytree(TOP / "tests/harness", tree / "guest/harness", ignore=ignore)
    shutil.copytree(TOP / "tests/vm/guest", tree / "guest", ignore=ignore, dirs_exist_ok=True)
    for program in ("/bin/busybox", "/usr/bin/docker-registry"):
        shutil.copy2(program, tree / "bin" / Path(program).name)
    # The guest's CPU is software: it shall not compile what is compiled here in a second.
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", str(site), str(tree / "guest")],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    image = directory / "payload.ext4"
    size = sum(f.stat().st_size for f in tree.rglob("*") if f.is_file()) >> 20
    _ext4(tree, image, int(size * 1.4) + 32)
    return image
