# SPDX-License-Identifier: Apache-2.0
"""Mounts of layer files at `<state>/l/<n>`: one per file, shared by every container above it.

Which number shows which file is read back from the kernel's mount table, so nothing can disagree with it and a killed
daemon's mounts are found again. Each mount of a file is a superblock and a page cache of its own: never two.
`<state>/l` is a private mount, so that no other mount namespace receives copies.
"""

from __future__ import annotations

import errno
import os
import threading

from wharfie.errdefs import FailedPrecondition
from wharfie.fsutil.lock import FileLock
from wharfie.linux import mountapi
from wharfie.snapshots.erofs.loop import backing_file, open_loop

_ATTRIBUTES = mountapi.MOUNT_ATTR_RDONLY | mountapi.MOUNT_ATTR_NOSUID | mountapi.MOUNT_ATTR_NODEV
"""For whoever looks in from the host; overlayfs asks its own mount's attributes, not its layers'."""
_ENOTBLK = 15
_NO_FILE_BACKING = {_ENOTBLK, errno.ENOTTY, errno.EINVAL}


def mount_file(path: str, *, loop: bool | None = None) -> int:
    """A detached mount of an EROFS file. By the file itself where the kernel can, else by a loop device.

    Raises: OSError with call and object.
    """
    if not loop:
        try:
            return mountapi.new_mount("erofs", ["ro"], source=path, attributes=_ATTRIBUTES)
        except OSError as e:
            if loop is False or e.errno not in _NO_FILE_BACKING:
                raise
    fd, device = open_loop(path)
    try:
        return mountapi.new_mount("erofs", ["ro"], source=device, attributes=_ATTRIBUTES)
    finally:
        os.close(fd)  # AUTOCLEAR: the mount holds the device now


class Attachments:
    """The mounts below one state directory. Safe to use from several threads and processes."""

    def __init__(self, state: str) -> None:
        self._base = os.path.join(os.path.realpath(state), "l")
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, int]] = {}
        self._met = False

    def show(self, path: str) -> str:
        """The mount point of the layer file `path`, attached now if it was not."""
        known = self._known.get(path)
        if known is not None and _device(known[0]) == known[1]:
            return known[0]
        with self._lock:
            os.makedirs(os.path.dirname(self._base), mode=0o710, exist_ok=True)
            with FileLock(self._base + ".lock"):
                self._prepare_base()
                there = self._attached()
                if path not in there:
                    there[path] = self._attach(path, there)
                self._know(there)
                return there[path]

    def idle(self) -> bool:
        """Whether this object has neither made nor met a mount."""
        return not self._met

    def hide(self, paths: set[str] | None = None, *, but: set[str] | None = None) -> None:
        """Unmount the layers `paths`, or all `but` some. Overlays that use one keep it alive by themselves."""
        if not os.path.isdir(self._base):
            self._known = {}
            return
        with self._lock, FileLock(self._base + ".lock"):
            there = self._attached()
            left = dict(there)
            for path, point in there.items():
                if (paths is not None and path in paths) or (but is not None and path not in but):
                    mountapi.umount2(point, mountapi.MNT_DETACH)
                    os.rmdir(point)
                    del left[path]
            self._know(left)
            if not left and but is not None and self._is_mount():
                mountapi.umount2(self._base, mountapi.MNT_DETACH)

    def _know(self, there: dict[str, str]) -> None:
        self._known = {file: (point, _device(point)) for file, point in there.items()}
        self._met = self._met or bool(there)

    def _attach(self, path: str, there: dict[str, str]) -> str:
        taken = set(there.values())
        n = next(n for n in range(len(taken) + 1) if os.path.join(self._base, str(n)) not in taken)
        point = os.path.join(self._base, str(n))
        os.makedirs(point, mode=0o700, exist_ok=True)
        try:
            fd = mount_file(path)
        except OSError as e:
            raise FailedPrecondition(
                f"mount layer {path!r}: {e}", hint="`wharfie info` says which snapshotters this host can do"
            ) from e
        try:
            mountapi.move_mount(fd, point)
        finally:
            os.close(fd)
        return point

    def _prepare_base(self) -> None:
        if not self._is_mount():
            os.makedirs(self._base, mode=0o700, exist_ok=True)
            mountapi.mount(self._base, self._base, "", mountapi.MS_BIND)
            mountapi.mount("", self._base, "", mountapi.MS_PRIVATE)

    def _is_mount(self) -> bool:
        return any(point == self._base for point, _, _ in _mount_table())

    def _attached(self) -> dict[str, str]:
        """Layer file -> mount point, from the mount table."""
        prefix = self._base + "/"
        found = {}
        for point, fs_type, source in _mount_table():
            if point.startswith(prefix) and fs_type == "erofs":
                found[backing_file(source) if source.startswith("/dev/loop") else source] = point
        return found


def _device(point: str) -> int:
    try:
        return os.stat(point).st_dev
    except OSError:
        return -1


def _mount_table() -> list[tuple[str, str, str]]:
    """(mount point, file system type, source) of every mount of this namespace."""
    with open("/proc/self/mountinfo", "rb") as f:
        lines = f.read().split(b"\n")
    found = []
    for line in lines:
        before, separator, after = line.partition(b" - ")
        if separator:
            fs_type, source = after.split(b" ")[:2]
            found.append((_plain(before.split(b" ")[4]), fs_type.decode(), _plain(source)))
    return found


def _plain(text: bytes) -> str:
    r"""Undo the table's octal escapes (space, tab, newline, backslash, #)."""
    if b"\\" in text:
        parts = text.split(b"\\")
        text = parts[0] + b"".join(bytes([int(p[:3], 8)]) + p[3:] for p in parts[1:])
    return os.fsdecode(text)
