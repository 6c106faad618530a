# SPDX-License-Identifier: Apache-2.0
"""Images for tests, made here and pushed with nothing but HTTP, so that no code under test makes its own input."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

CACHE = Path("/var/cache/wharfie-tests")
_APPLETS = (
    "sh ash true false cat echo ls id sleep env ps kill grep head tail wc touch mkdir rm ln stat hostname mount umount "
    "dd yes seq ping nslookup ip sync chmod chown readlink test expr date stty tty nproc find tar du df vi sed awk od "
    "cut sort uniq xargs nc wget chroot unshare sha256sum cp mv rmdir printf pwd whoami uname"
).split()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_tar(entries: dict[str, Any]) -> bytes:
    """A layer tar out of {path: content}: bytes (0644), ("exec", bytes), ("dir", mode), ("link", target), ("hard", target)
    or a ready TarInfo-and-bytes pair."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in entries.items():
            info = tarfile.TarInfo(path)
            info.mtime = 1700000000
            data = b""
            if isinstance(content, bytes):
                info.mode, data = 0o644, content
            elif isinstance(content[0], tarfile.TarInfo):
                info, data = content
            elif content[0] == "exec":
                info.mode, data = 0o755, content[1]
            elif content[0] == "dir":
                info.type, info.mode = tarfile.DIRTYPE, content[1]
            elif content[0] == "link":
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, content[1], 0o777
            elif content[0] == "hard":
                info.type, info.linkname, info.mode = tarfile.LNKTYPE, content[1], 0o755
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def busybox_tar() -> bytes:
    entries: dict[str, Any] = {
        "bin": ("dir", 0o755), "dev": ("dir", 0o755), "etc": ("dir", 0o755), "proc": ("dir", 0o555), "root": ("dir", 0o700),
        "sys": ("dir", 0o555), "tmp": ("dir", 0o1777), "var": ("dir", 0o755), "home": ("dir", 0o755), "usr": ("dir", 0o755),
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        "etc/group": b"root:x:0:\nuser:x:1000:\nextra:x:2000:user\nnogroup:x:65534:\n",
        "bin/busybox": ("exec", Path("/bin/busybox").read_bytes()),
    }  # fmt: skip
    for applet in _APPLETS:
        entries[f"bin/{applet}"] = ("hard", "bin/busybox")
    return make_tar(entries)


class Image:
    """Layers (uncompressed tars) and a config, as blobs of a registry."""

    def __init__(
        self, layers: list[bytes], config: dict[str, Any] | None = None, *, platform: str = "linux/amd64"
    ) -> None:
        os_, arch = platform.split("/")[:2]
        self.tars = layers
        self.blobs = [gzip.compress(t, 1, mtime=0) for t in layers]
        self.config = {
            "architecture": arch, "os": os_, "created": "2026-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"], **(config or {})},
            "rootfs": {"type": "layers", "diff_ids": [digest(t) for t in layers]},
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "test"} for _ in layers],
        }  # fmt: skip
        self.config_blob = json.dumps(self.config).encode()
        self.manifest = json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(self.config_blob), "size": len(self.config_blob)},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(b), "size": len(b)} for b in self.blobs],
        }).encode()  # fmt: skip

    @property
    def digest(self) -> str:
        return digest(self.manifest)

    def push(self, host: str, name: str, tag: str = "latest") -> str:
        """Push to a plain-HTTP registry; returns the reference."""
        for blob in (*self.blobs, self.config_blob):
            push_blob(host, name, blob)
        put_manifest(host, name, tag, self.manifest, "application/vnd.oci.image.manifest.v1+json")
        return f"{host}/{name}:{tag}"


def push_blob(host: str, name: str, blob: bytes) -> None:
    start = urllib.request.Request(f"http://{host}/v2/{name}/blobs/uploads/", method="POST")
    with urllib.request.urlopen(start) as answer:
        location = answer.headers["Location"]
    sep = "&" if "?" in location else "?"
    put = urllib.request.Request(
        f"{location}{sep}digest={digest(blob)}",
        data=blob,
        method="PUT",
        headers={"Content-Type": "application/octet-stream"},
    )
    with urllib.request.urlopen(put):
        pass


def put_manifest(host: str, name: str, tag: str, manifest: bytes, media_type: str) -> None:
    put = urllib.request.Request(
        f"http://{host}/v2/{name}/manifests/{tag}", data=manifest, method="PUT", headers={"Content-Type": media_type}
    )
    with urllib.request.urlopen(put):
        pass


def busybox() -> Image:
    return Image([busybox_tar()])


def debian_tar() -> bytes:
    """Tar of a minimal Debian, made once a machine with debootstrap (needs the Debian mirror apt is set up for)."""
    CACHE.mkdir(parents=True, exist_ok=True)
    cached = CACHE / "debian-bookworm.tar"
    if not cached.exists():
        tree = CACHE / f"debootstrap.{cached.name}"
        subprocess.run(["rm", "-rf", str(tree)], check=True)
        subprocess.run(
            ["debootstrap", "--variant=minbase", "bookworm", str(tree)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        subprocess.run(["rm", "-rf", f"{tree}/var/cache/apt/archives", f"{tree}/var/lib/apt/lists"], check=True)
        part = CACHE / f"{cached.name}.part"
        subprocess.run(
            ["tar", "--numeric-owner", "--xattrs", "-C", str(tree), "--exclude=./dev/*", "-cf", str(part), "."],
            check=True,
        )
        subprocess.run(["rm", "-rf", str(tree)], check=True)
        part.rename(cached)
    return cached.read_bytes()


def debian() -> Image:
    return Image([debian_tar()], {"Cmd": ["bash"]})
