# SPDX-License-Identifier: Apache-2.0
"""A container's directory `<root>/containers/<ns>/<id>`: config.json, hostname, hosts, resolv.conf, exit.json, log/.

Blocking; run in the `files` pool. The directory is made under a temporary name and renamed when it is whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from wharfie.fsutil import atomic
from wharfie.spec.docker import HostConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.daemon.config import Config

EXIT = "exit.json"
CONFIG = "config.json"
_HOST_RESOLV = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
MAX_RESOLV_BYTES = 1 << 20


class ExitRecord(msgspec.Struct):
    """What the shim leaves behind (decisions 3)."""

    exit_status: int
    exited_at_s: float
    oom: bool = False
    pid: int = 0
    error: str = ""


_exit_decoder = msgspec.json.Decoder(ExitRecord)


class Files(NamedTuple):
    """Contents of the generated files."""

    hostname: bytes
    hosts: bytes
    resolv_conf: bytes


def hosts_file(hostname: str, domain: str, extra: Sequence[str]) -> bytes:
    """/etc/hosts. `extra`: --add-host's NAME:ADDRESS (or NAME=ADDRESS), checked by `specgen.validate`."""
    lines = [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::\tip6-localnet",
        "ff00::\tip6-mcastprefix",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
    ]
    for entry in extra:
        at = min((i for i in (entry.find(":"), entry.find("=")) if i > 0), default=-1)
        lines.append(f"{entry[at + 1 :].strip('[]')}\t{entry[:at]}")
    if hostname:
        full = f"{hostname}.{domain} {hostname}" if domain else hostname
        lines.append(f"127.0.1.1\t{full}")
    return ("\n".join(lines) + "\n").encode()


def _host_resolv() -> list[str]:
    """Lines of the host's resolv.conf; of the file behind systemd-resolved's stub, which a container can't reach."""
    lines: list[str] = []
    for path in _HOST_RESOLV:
        try:
            with open(path, encoding="utf-8", errors="replace") as f:
                lines = f.read(MAX_RESOLV_BYTES).splitlines()
        except OSError:
            continue
        if not all(w.split()[1:2] == ["127.0.0.53"] for w in lines if w.startswith("nameserver")):
            return lines
    return lines


def resolv_conf(host: HostConfig, *, host_network: bool) -> bytes:
    """/etc/resolv.conf: the request's words, else the host's. Loopback servers only make sense on the host's network."""
    lines = _host_resolv()

    def values(keyword: str) -> list[str]:
        return [
            line.split(None, 1)[1] for line in lines if line.split(None, 1)[:1] == [keyword] and len(line.split()) > 1
        ]

    servers = list(host.dns or values("nameserver"))
    if not host_network and not host.dns:
        servers = [s for s in servers if not s.startswith("127.") and s != "::1"]
    search = list(host.dns_search or [w for v in values("search") for w in v.split()])
    options = list(host.dns_options or [w for v in values("options") for w in v.split()])
    out = [f"nameserver {s}" for s in servers]
    if search and search != ["."]:
        out.append(f"search {' '.join(search)}")
    if options:
        out.append(f"options {' '.join(options)}")
    return ("\n".join(out) + "\n").encode() if out else b""


def write(path: str, files: Files, config: bytes) -> None:
    """Make the directory `path`, whole."""
    temporary = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(temporary)
    try:
        os.mkdir(temporary, 0o710)
    except FileNotFoundError:
        os.makedirs(temporary, 0o710)
    try:
        for name, data, mode in (
            ("hostname", files.hostname, 0o644),
            ("hosts", files.hosts, 0o644),
            ("resolv.conf", files.resolv_conf, 0o644),
            (CONFIG, config, 0o600),
        ):
            fd = os.open(
                os.path.join(temporary, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode
            )
            try:
                os.write(fd, data)
            finally:
                os.close(fd)
        os.mkdir(os.path.join(temporary, "log"), 0o710)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_config(path: str, config: bytes) -> None:
    atomic.write(os.path.join(path, CONFIG), config, 0o600)


def read_config(path: str) -> bytes:
    with open(os.path.join(path, CONFIG), "rb") as f:
        return f.read()


def exists(path: str) -> bool:
    """Whether the directory is there, whole."""
    return os.path.exists(os.path.join(path, CONFIG))


def has_shim(config: Config, ns: str, container_id: str) -> bool:
    """Whether a shim, alive or not, has left its run directory."""
    return os.path.exists(config.run_path("shims", ns, container_id))


def read_exit(path: str) -> ExitRecord | None:
    """The exit record, None where there is none (yet). A torn one cannot be: it is renamed into place."""
    try:
        with open(os.path.join(path, EXIT), "rb") as f:
            return _exit_decoder.decode(f.read())
    except FileNotFoundError:
        return None


def forget_exit(path: str) -> None:
    """Before a start: the record of the former run must not be taken for the new one's."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(path, EXIT))


def remove(path: str) -> None:
    """Remove the directory, renamed first, so that half a bundle is never seen."""
    gone = f"{path}.gone"
    try:
        os.rename(path, gone)
    except FileNotFoundError:
        gone = path
    try:
        _remove_flat(gone)
    except OSError:
        shutil.rmtree(gone, ignore_errors=True)


def _remove_flat(path: str) -> None:
    """Files, and directories of files: what a bundle is, at half the calls of a general walk. Raises OSError."""
    for name in os.listdir(path):
        if name == "log":
            log = os.path.join(path, name)
            for piece in os.listdir(log):
                os.unlink(os.path.join(log, piece))
            os.rmdir(log)
        else:
            os.unlink(os.path.join(path, name))
    os.rmdir(path)
