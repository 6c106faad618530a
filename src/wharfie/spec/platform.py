# SPDX-License-Identifier: Apache-2.0
"""Platforms: OCI image-spec image-index.md, "platform"; normalised as containerd's platforms package does."""

from __future__ import annotations

import platform as _host
import sys
from typing import NamedTuple

from wharfie.errdefs import InvalidArgument

_ARCH = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armel": "arm",
    "i386": "386",
    "i686": "386",
}
_ARM_VARIANT = {"armhf": "v7", "armel": "v6", "armv7l": "v7", "armv6l": "v6"}
_KNOWN_OS = frozenset({"linux", "windows", "darwin", "freebsd"})
_KNOWN_ARCH = frozenset(
    {
        "386",
        "amd64",
        "arm",
        "arm64",
        "loong64",
        "mips",
        "mips64",
        "mips64le",
        "mipsle",
        "ppc64",
        "ppc64le",
        "riscv64",
        "s390x",
        "wasm",
    }
)


class Platform(NamedTuple):
    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")


def normalize(
    os: str, architecture: str, variant: str = "", os_version: str = "", os_features: tuple[str, ...] = ()
) -> Platform:
    os, arch, variant = os.lower(), architecture.lower(), variant.lower()
    variant = variant or _ARM_VARIANT.get(arch, "")
    arch = "arm" if arch in _ARM_VARIANT else _ARCH.get(arch, arch)
    if arch == "arm64" and variant in {"8", "v8"}:
        variant = ""
    if arch == "arm":
        variant = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
    if arch == "amd64" and variant == "v1":
        variant = ""
    return Platform(os, arch, variant, os_version, os_features)


def host_platform() -> Platform:
    """Platform of this machine."""
    return normalize("windows" if sys.platform == "win32" else sys.platform, _host.machine() or "amd64")


def parse_platform(text: str) -> Platform:
    """Parse `os[/arch[/variant]]` or a lone arch, as `--platform` takes it. Raises InvalidArgument."""
    parts = text.strip().lower().split("/")
    host = host_platform()
    if len(parts) == 1 and parts[0] in _KNOWN_OS:
        return normalize(parts[0], host.architecture, host.variant)
    if len(parts) == 1 and normalize("linux", parts[0]).architecture in _KNOWN_ARCH:
        return normalize(host.os, parts[0])
    if len(parts) in {2, 3} and all(parts) and parts[0] in _KNOWN_OS:
        return normalize(parts[0], parts[1], parts[2] if len(parts) == 3 else "")
    raise InvalidArgument(
        f"parse platform {text!r}: not os[/arch[/variant]]", hint="for example linux/amd64, linux/arm64 or linux/arm/v7"
    )


def match_rank(wanted: Platform, offered: Platform) -> int | None:
    """How well an image for `offered` serves `wanted`: 0 is exact, higher is worse, None does not run."""
    if wanted.os != offered.os:
        return None
    if wanted.architecture == offered.architecture:
        if wanted.variant == offered.variant:
            return 0
        if wanted.architecture == "arm" and offered.variant <= wanted.variant:
            return 1 + ord(wanted.variant[-1]) - ord(offered.variant[-1])
        if not offered.variant:
            return 1
        if wanted.architecture == "amd64" and offered.variant <= (wanted.variant or "v1"):
            return 1
        return None
    if (wanted.architecture, offered.architecture) == ("amd64", "386"):
        return 10
    if (wanted.architecture, offered.architecture) == ("arm64", "arm"):
        return 10
    return None
