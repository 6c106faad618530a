# SPDX-License-Identifier: Apache-2.0
"""Mount option words, of mount(8) and of the OCI runtime spec (config.md, "Linux mount options"), as kernel attributes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from wharfie.linux import mountapi as k

_SET = {  # word -> (attributes to set, attributes to clear)
    "ro": (k.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, k.MOUNT_ATTR_RDONLY),
    "nosuid": (k.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, k.MOUNT_ATTR_NOSUID),
    "nodev": (k.MOUNT_ATTR_NODEV, 0),
    "dev": (0, k.MOUNT_ATTR_NODEV),
    "noexec": (k.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, k.MOUNT_ATTR_NOEXEC),
    "noatime": (k.MOUNT_ATTR_NOATIME, k.MOUNT_ATTR__ATIME),
    "atime": (k.MOUNT_ATTR_RELATIME, k.MOUNT_ATTR__ATIME),
    "relatime": (k.MOUNT_ATTR_RELATIME, k.MOUNT_ATTR__ATIME),
    "norelatime": (k.MOUNT_ATTR_RELATIME, k.MOUNT_ATTR__ATIME),
    "strictatime": (k.MOUNT_ATTR_STRICTATIME, k.MOUNT_ATTR__ATIME),
    "nostrictatime": (k.MOUNT_ATTR_RELATIME, k.MOUNT_ATTR__ATIME),
    "nodiratime": (k.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, k.MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (k.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, k.MOUNT_ATTR_NOSYMFOLLOW),
}
_PROPAGATION = {
    "private": k.MS_PRIVATE,
    "shared": k.MS_SHARED,
    "slave": k.MS_SLAVE,
    "unbindable": k.MS_UNBINDABLE,
}
_SUPERBLOCK = {
    "sync": "sync", "async": "async", "dirsync": "dirsync", "lazytime": "lazytime", "nolazytime": "nolazytime",
    "mand": "mand", "nomand": "nomand", "silent": "silent",
}  # fmt: skip
_IGNORED = {"defaults", "loud", "iversion", "noiversion", "remount", ""}
"""Without a meaning in the new mount API (iversion is the file system's own affair since 5.x), or the default."""


def known_words() -> list[str]:
    """Every option word with a meaning here, sorted."""
    words = {*_SET, *_PROPAGATION, *_SUPERBLOCK, "bind", "rbind", "tmpcopyup", "idmap", "ridmap", "defaults", "remount"}
    words |= {f"r{w}" for w in (*_SET, *_PROPAGATION)}
    return sorted(words)


class Options(NamedTuple):
    """`data` are the file system's own words in order. Recursive attributes count for submounts of a bind too.

    `propagation`: (MS_… flag, recursive) in order. `idmap`: "", "idmap" or "ridmap".
    """

    attr_set: int
    attr_clr: int
    recursive_set: int
    recursive_clr: int
    propagation: tuple[tuple[int, bool], ...]
    bind: bool
    rbind: bool
    read_only: bool
    tmpcopyup: bool
    idmap: str
    uid_map: str
    gid_map: str
    superblock: tuple[str, ...]
    data: tuple[str, ...]


def parse(words: Iterable[str]) -> Options:
    """Sort option words. A later word wins over an earlier one. Nothing is dropped: unknown words are `data`."""
    attr_set = attr_clr = recursive_set = recursive_clr = 0
    propagation: list[tuple[int, bool]] = []
    bind = rbind = copyup = False
    idmap = uid_map = gid_map = ""
    superblock: list[str] = []
    data: list[str] = []
    for word in words:
        if word in _SET:
            on, off = _SET[word]
            attr_set = attr_set & ~off | on
            attr_clr = attr_clr & ~on | off
        elif word[:1] == "r" and word[1:] in _SET and word != "relatime":
            on, off = _SET[word[1:]]
            recursive_set = recursive_set & ~off | on
            recursive_clr = recursive_clr & ~on | off
        elif word in _PROPAGATION:
            propagation.append((_PROPAGATION[word], False))
        elif word[:1] == "r" and word[1:] in _PROPAGATION:
            propagation.append((_PROPAGATION[word[1:]], True))
        elif word == "bind":
            bind = True
        elif word == "rbind":
            bind = rbind = True
        elif word == "tmpcopyup":
            copyup = True
        elif word in {"idmap", "ridmap"}:
            idmap = word
        elif word.startswith("uidmap="):
            uid_map = word[7:]
        elif word.startswith("gidmap="):
            gid_map = word[7:]
        elif word in _SUPERBLOCK:
            superblock.append(_SUPERBLOCK[word])
        elif word not in _IGNORED:
            data.append(word)
    return Options(
        attr_set, attr_clr, recursive_set, recursive_clr, tuple(propagation), bind, rbind,
        bool(attr_set & k.MOUNT_ATTR_RDONLY), copyup, idmap, uid_map, gid_map, tuple(superblock), tuple(data),
    )  # fmt: skip
