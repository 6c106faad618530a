# SPDX-License-Identifier: Apache-2.0
"""Options of the `local` volume driver: what of them is a bind of a host directory, and what has to be mounted."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import NamedTuple

from wharfie.errdefs import InvalidArgument, Unsupported

_KNOWN = frozenset({"type", "o", "device", "size"})
_FLAGS = {
    # mount(8) word: (bits to set, bits to clear); numbers from linux/mount.h
    "ro": (1, 0), "rw": (0, 1), "nosuid": (2, 0), "suid": (0, 2), "nodev": (4, 0), "dev": (0, 4), "noexec": (8, 0),
    "exec": (0, 8), "sync": (16, 0), "async": (0, 16), "mand": (64, 0), "dirsync": (128, 0), "noatime": (1024, 0),
    "atime": (0, 1024), "nodiratime": (2048, 0), "diratime": (0, 2048), "bind": (4096, 0), "rbind": (4096 | 16384, 0),
    "relatime": (1 << 21, 0), "norelatime": (0, 1 << 21), "strictatime": (1 << 24, 0), "nostrictatime": (0, 1 << 24),
    "defaults": (0, 0),
}  # fmt: skip
MS_BIND = 4096


class LocalMount(NamedTuple):
    """One mount(2) call: type, source, flags, data."""

    fs_type: str
    device: str
    flags: int
    data: str

    @property
    def is_bind(self) -> bool:
        return bool(self.flags & MS_BIND)


def parse_local(name: str, options: Mapping[str, str]) -> LocalMount | None:
    """What the options of volume `name` mount on it, None where they mount nothing.

    Raises InvalidArgument (unknown or missing option), Unsupported (size, which needs a quota).
    """
    if not options:
        return None
    where = f"create volume {name!r}" if name else "create volume"
    unknown = sorted(set(options) - _KNOWN)
    if unknown:
        raise InvalidArgument(
            f"{where}: invalid option {unknown[0]!r}", hint="the local driver takes the options type, device, o"
        )
    if "size" in options:
        raise Unsupported(
            f"{where}: option size needs a quota on the volumes directory",
            hint="a tmpfs can be limited: --opt type=tmpfs --opt device=tmpfs --opt o=size=100m",
        )
    missing = [key for key in ("device", "type") if not options.get(key)]
    if missing:
        raise InvalidArgument(
            f"{where}: missing required option {missing[0]!r}", hint="the local driver needs both type and device"
        )
    flags, data = _mount_words(options.get("o", ""))
    fs_type, device = options["type"], options["device"]
    if flags & MS_BIND:
        if data:
            raise InvalidArgument(f"{where}: option o={data!r} has no meaning for a bind")
        if not posixpath.isabs(device):
            raise InvalidArgument(f"{where}: device {device!r} of a bind is not an absolute path")
        device = posixpath.normpath(device)
    elif fs_type == "none":
        raise InvalidArgument(f"{where}: type=none mounts nothing", hint="add --opt o=bind to bind a host directory")
    return LocalMount(fs_type, device, flags, data)


def _mount_words(text: str) -> tuple[int, str]:
    flags, data = 0, []
    for word in filter(None, text.split(",")):
        known = _FLAGS.get(word)
        if known is None:
            data.append(word)
        else:
            flags = flags & ~known[1] | known[0]
    return flags, ",".join(data)
