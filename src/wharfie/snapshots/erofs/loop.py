# SPDX-License-Identifier: Apache-2.0
"""Read-only loop devices, for kernels and file systems that cannot mount EROFS from a file.

Spec: Linux include/uapi/linux/loop.h; LOOP_CONFIGURE is 5.8. mount(8) is never asked: it takes 5 ms for what takes 0.3.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

from wharfie.errdefs import ResourceExhausted

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_READ_ONLY, _LO_FLAGS_AUTOCLEAR = 1, 4
_TRIES = 64


def open_loop(path: str) -> tuple[int, str]:
    """(descriptor, device path) of a free loop device over `path`; it goes with its last user.

    Raises: ResourceExhausted (none free), OSError.
    """
    if sys.platform == "win32":
        raise NotImplementedError("loop devices are Linux's")
    import fcntl

    backing = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(_TRIES):
                number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
                device = f"/dev/loop{number}"
                _make_node(device, number)
                fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.ioctl(fd, _LOOP_CONFIGURE, _config(backing, path))
                except OSError as e:
                    os.close(fd)
                    if e.errno == errno.EBUSY:
                        continue  # somebody else took it
                    raise OSError(e.errno, f"LOOP_CONFIGURE: {e.strerror}", device) from e
                return fd, device
        finally:
            os.close(control)
    finally:
        os.close(backing)
    raise ResourceExhausted(f"attach {path!r}: every loop device was taken", hint="see losetup -l")


def _config(backing: int, path: str) -> bytes:
    # loop_config: fd, block_size, loop_info64 (offset at 24, number 40, flags 52, file name 56), reserved
    flags = _LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR
    info = struct.pack("<QQQQQIIII64s64s32sQQ", 0, 0, 0, 0, 0, 0, 0, 0, flags, os.fsencode(path)[-63:], b"", b"", 0, 0)
    return struct.pack("<II", backing, 0) + info + bytes(64)


def _make_node(device: str, number: int) -> None:
    """Without udev (in a container) a new device's node may be missing."""
    if sys.platform != "win32" and not os.path.exists(device):
        try:
            os.mknod(device, 0o060660, os.makedev(7, number))
        except FileExistsError:
            pass


def backing_file(device: str) -> str:
    """Path of the file behind a loop device; the device's own path where it has none any more."""
    try:
        with open(f"/sys/block/{os.path.basename(device)}/loop/backing_file", "rb") as f:
            return os.fsdecode(f.read().removesuffix(b"\n"))
    except OSError:
        return device
