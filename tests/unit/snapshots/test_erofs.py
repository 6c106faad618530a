# SPDX-License-Identifier: Apache-2.0
"""EROFS images and their mounts: accepted by others, found again, on loop devices too."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tempfile
import time
import zlib

import pytest

from harness.trees import device, digest, directory, hardlink, look, member, opened, put, symlink, tar
from wharfie.archive.compression import inflate
from wharfie.snapshots.erofs.attach import Attachments, mount_file
from wharfie.snapshots.erofs.build import build
from wharfie.snapshots.ladder import open_snapshotter

pytestmark = pytest.mark.root


def make(data: bytes, path: str) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        build(inflate(io.BytesIO(data), "none"), digest(data), fd)
    finally:
        os.close(fd)


@pytest.fixture
def place():
    with tempfile.TemporaryDirectory(prefix="wharfie-erofs.", dir="/var/tmp") as path:
        yield path


LAYERS = {
    "empty": tar(),
    "root only": tar(directory(".", mode=0o700, mtime=-5)),
    "sizes round block edges": tar(*[(f"f{n}", os.urandom(n)) for n in (0, 1, 4095, 4096, 4097, 8191, 8192, 12_289, 1 << 20, (1 << 20) + 1)]),
    "large directory": tar(*[f"d/{i:x}{'x' * (i % 200)}" for i in range(3000)]),
    "names of 255 bytes": tar(*[f"d/{i:03}{'n' * 252}" for i in range(60)]),
    "links": tar(("a", b"a"), *[hardlink(f"h{i}", "a") for i in range(300)], *[symlink(f"s{n}", "t" * n) for n in (1, 59, 60, 3900, 4031, 4032, 4033, 4095)]),
    "attributes": tar(
        member("x", xattrs={"user." + "k" * 200: "v" * 3000, "user.b": "", "trusted.c": "1", "security.d": "2"}),
        directory("big", xattrs={"user.big": "b" * 60_000}),
        *[member(f"y{i}", xattrs={"user.i": "v" * i}) for i in range(0, 4000, 97)],
        symlink("l", "x", xattrs={"trusted.on-link": "yes"}),
    ),
    "owners and devices": tar(member("a", uid=4_000_000_000, gid=3_000_000_000), device("b", b"3", 4095, 1_048_575), device("c", b"4", 8, 300)),
    "whiteouts": tar("d/", "d/.wh.a", "e/", "e/.wh..wh..opq", "e/.wh.x", ".wh.f", ".wh.g"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_images_are_sound_and_the_same_each_time(place, name):
    make(LAYERS[name], f"{place}/1")
    make(LAYERS[name], f"{place}/2")
    with open(f"{place}/1", "rb") as one, open(f"{place}/2", "rb") as two:
        assert one.read() == two.read()
    if shutil.which("fsck.erofs") is None:
        pytest.skip("not installed: fsck.erofs (package erofs-utils)")
    subprocess.run(["fsck.erofs", f"{place}/1"], check=True, capture_output=True)
    os.mkdir(f"{place}/out")
    if name not in {"attributes", "whiteouts"}:  # Debian's fsck.erofs restores no attributes
        subprocess.run(
            ["fsck.erofs", f"--extract={place}/out", "--preserve", f"{place}/1"], check=True, capture_output=True
        )
        fd = mount_file(f"{place}/1")
        try:
            mounted = look(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        extracted = look(f"{place}/out")
        assert mounted.keys() == extracted.keys()
        for path, seen in mounted.items():
            assert seen[:4] == extracted[path][:4], path


def test_loop_devices_show_the_same(place):
    make(LAYERS["links"], f"{place}/x")
    looks = []
    for loop in (False, True):
        fd = mount_file(f"{place}/x", loop=loop)
        try:
            looks.append(look(f"/proc/self/fd/{fd}"))
        finally:
            os.close(fd)
    assert looks[0] == looks[1]
    listed = subprocess.run(
        ["losetup", "-l", "-n", "-O", "BACK-FILE"], capture_output=True, text=True, check=True
    ).stdout
    assert place not in listed


def test_store_on_tmpfs_falls_to_loop_devices(place):
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        s = open_snapshotter("erofs", f"{place}/root", f"{place}/run")
        base = put(s, LAYERS["links"])
        with opened(s.prepare("c", base)) as path:
            assert os.path.exists(f"{path}/h299")
        again = Attachments(f"{place}/run")
        layer = f"{s.directory}/layers/{digest(LAYERS['links'])[7:]}.erofs"
        assert again.show(layer) == f"{place}/run/l/0"
        s.remove("c")
        s.close()
    finally:
        subprocess.run(["umount", place], check=True)


def test_mounts_are_found_again_and_released(place):
    s = open_snapshotter("erofs", f"{place}/root", f"{place}/run")
    one, two = put(s, LAYERS["links"]), put(s, LAYERS["sizes round block edges"])
    first = s.prepare("c1", one), s.prepare("c2", two)
    # As after kill -9 of the daemon: the mounts are there, nobody remembers them.
    s = open_snapshotter("erofs", f"{place}/root", f"{place}/run")
    assert (s.mounts("c1"), s.mounts("c2")) == first
    assert s.prepare("c3", one)[0].options[3] == first[0][0].options[3]
    s.remove("c1")
    s.close()
    assert sorted(os.listdir(f"{place}/run/l")) == ["0", "1"]
    s.remove("c3")
    s.close()
    assert os.listdir(f"{place}/run/l") == ["1"]
    assert s.mounts("c2") == first[1]
    # As after a reboot: /run is empty.
    s.remove("c2")
    s.prepare("c4", two)
    subprocess.run(["umount", "-l", f"{place}/run/l"], check=True)
    shutil.rmtree(f"{place}/run")
    with opened(s.mounts("c4")) as path:
        assert os.path.exists(f"{path}/f4097")
    s.remove("c4")
    s.close()
    with open("/proc/self/mountinfo") as f:
        assert place not in f.read()


def test_a_layer_stays_readable_after_it_was_removed(place):
    """Containers hold what they use; only its name goes."""
    s = open_snapshotter("erofs", f"{place}/root", f"{place}/run")
    base = put(s, LAYERS["sizes round block edges"])
    mounts = s.prepare("c", base)
    with opened(mounts) as path:
        s.remove("c")
        s.remove(base)
        s.remove_layer(digest(LAYERS["sizes round block edges"]))
        with open(f"{path}/f{(1 << 20) + 1}", "rb") as f:
            assert len(f.read()) == (1 << 20) + 1
    s.close()


@pytest.mark.crash
@pytest.mark.parametrize("name", ["erofs", "overlay", "native"])
def test_kill_at_any_moment_leaves_what_cleanup_removes(place, name):
    big = tar(*[(f"d{i % 50}/f{i}", os.urandom(3000)) for i in range(3000)])
    blob = zlib.compress(big, 1, wbits=31)
    s = open_snapshotter(name, f"{place}/root", f"{place}/run")
    whole = 0
    for delay_ms in (5, 20, 60, 120, 250, 600):
        pid = os.fork()
        if not pid:
            try:
                s.ingest(io.BytesIO(blob), compression="gzip", diff_id=digest(big))
                s.assemble("x", None, digest(big))
                s.prepare("c", "x")
            finally:
                os._exit(0)
        time.sleep(delay_ms / 1000)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        s = open_snapshotter(name, f"{place}/root", f"{place}/run")
        s.cleanup()
        assert os.listdir(f"{s.directory}/tmp") == []
        layers = os.listdir(f"{s.directory}/layers")
        assert len(layers) == (2 if s.has_layer(digest(big)) else 0)
        for info in list(s.walk()):
            whole += info.kind == "committed"
            if info.kind != "committed":
                with opened(s.mounts(info.name)) as path:
                    assert len(os.listdir(path)) == 50
                s.remove(info.name)
        for info in list(s.walk()):
            s.remove(info.name)
        if s.has_layer(digest(big)):
            s.remove_layer(digest(big))
    s.close()
