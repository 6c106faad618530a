# SPDX-License-Identifier: Apache-2.0
"""Debian's stock kernel, unpacked (never installed) below the tests' cache: an uncompressed vmlinux and its modules."""

from __future__ import annotations

import fcntl
import lzma
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from harness.images import CACHE

WANTED = ("virtio_pci", "virtio_blk", "virtio_rng", "ext4", "overlay", "erofs", "loop", "veth")
_ELF = b"\x7fELF"


class Kernel(NamedTuple):
    """`modules`: .ko files in the order in which they load."""

    release: str
    vmlinux: Path
    modules: tuple[Path, ...]


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One test session at a time makes what others then find in the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _package() -> str:
    shown = subprocess.run(
        ["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"Depends: (linux-image-\S+)", shown)
    if found is None:
        raise RuntimeError(f"apt knows no kernel image:\n{shown}")
    return found[1]


def uncompressed(bzimage: bytes) -> bytes:
    """The vmlinux inside a bzImage (Documentation/x86/boot.rst: payload_offset, payload_length).

    QEMU starts it by its PVH note, and the guest is spared inflating itself: 3 s under TCG.
    """
    setup = (bzimage[0x1F1] + 1) * 512
    offset, length = (int.from_bytes(bzimage[at : at + 4], "little") for at in (0x248, 0x24C))
    payload = bzimage[setup + offset : setup + offset + length]
    if payload.startswith(b"\xfd7zXZ"):
        # The last four bytes are the size, for the kernel's own decompressor.
        image = lzma.decompress(payload[:-4])
    else:
        image = subprocess.run(["lz4", "-d"], input=payload[:-4], capture_output=True, check=True).stdout
    assert image.startswith(_ELF)
    return image


def load_order(tree: Path, wanted: tuple[str, ...]) -> list[Path]:
    """`wanted` modules and all that they need, dependencies first; soft ones too (crc32c_generic before libcrc32c)."""
    index = {p.stem.replace("-", "_"): p for p in tree.rglob("*.ko")}
    order: list[Path] = []

    def add(name: str) -> None:
        path = index.get(name.replace("-", "_"))
        if path is None or path in order:
            return  # built in
        data = path.read_bytes()
        needs = [n.decode() for found in re.findall(rb"\0depends=([^\0]*)\0", data) for n in found.split(b",") if n]
        needs += [n.decode() for found in re.findall(rb"\0softdep=pre: ([^\0]*)\0", data) for n in found.split()]
        if name == "libcrc32c":
            needs.append("crc32c_generic")
        for need in needs:
            add(need)
        order.append(path)

    for name in wanted:
        add(name)
    return order


def debian_kernel() -> Kernel:
    """From the cache, or fetched with apt-get download and dpkg -x."""
    with locked("vm-kernel"):
        package = _package()
        tree = CACHE / f"vm-{package}"
        if not tree.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
                subprocess.run(["apt-get", "download", "-qq", package], cwd=tmp, check=True, stderr=subprocess.DEVNULL)
                deb = next(Path(tmp).glob("*.deb"))
                made = Path(tmp) / "tree"
                subprocess.run(["dpkg", "-x", str(deb), str(made)], check=True)
                image = next((made / "boot").glob("vmlinuz-*"))
                (made / "vmlinux").write_bytes(uncompressed(image.read_bytes()))
                shutil.move(made, tree)
        release = next((tree / "lib/modules").iterdir()).name
        return Kernel(release, tree / "vmlinux", tuple(load_order(tree / "lib/modules", WANTED)))
