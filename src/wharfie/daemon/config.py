# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration: a TOML file, then flags; and every path that follows from it (decisions 19).

An unknown key is an error that names file, line and the nearest known key. `wharfied config default` prints all keys.
"""

from __future__ import annotations

import os
import sys
from typing import Any, get_args

import msgspec

from wharfie.errdefs import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.oci.facts import HostFacts

if sys.platform == "win32":
    DEFAULT_ROOT = r"C:\ProgramData\wharfie"
    DEFAULT_STATE = r"C:\ProgramData\wharfie\run"
    DEFAULT_CONFIG = r"C:\ProgramData\wharfie\config.toml"
else:
    DEFAULT_ROOT = "/var/lib/wharfie"
    DEFAULT_STATE = "/run/wharfie"
    DEFAULT_CONFIG = "/etc/wharfie/config.toml"

DEFAULT_CGROUP_PARENT = "/wharfie"
LOG_LEVELS = ("debug", "info", "warning", "error")


class Config(msgspec.Struct, kw_only=True):
    """All settings. Durations in seconds, sizes in bytes."""

    root: str = DEFAULT_ROOT
    state: str = DEFAULT_STATE
    hosts: list[str] = []
    """Where the Engine API listens: `unix:///path` or `tcp://address:port`. Empty: `<state>/wharfie.sock`."""
    group: str = "wharfie"
    """Group that owns the unix sockets, where it exists."""
    log_level: str = "info"
    log_format: str = "text"
    """text (key=value) or json."""
    snapshotter: str = "auto"
    """auto, erofs, overlayfs or native."""
    runtime: str = "io.wharfie.linux.v1"
    runtimes: dict[str, str] = {}
    """More names for --runtime: name -> path of an OCI runtime, or a containerd shim's runtime type."""
    cgroup_driver: str = "auto"
    """auto, cgroupfs or systemd. auto: systemd where it runs the host, cgroup is v2 and cgroup_parent is no path."""
    cgroup_parent: str = DEFAULT_CGROUP_PARENT
    """Where containers' cgroups are made: a path, or a slice for the systemd driver, which takes system.slice else."""
    cgroup_favor_moves: bool = False
    """Turn on the kernel's favordynmods for the whole host: containers start faster, forks cost a little more."""
    userns: str = "auto"
    """Default of --userns: auto or host."""
    userns_range: tuple[int, int] = (1_879_048_192, 268_435_456)
    """First id and number of ids that containers get their own 65536 from."""
    log_driver: str = "local"
    log_opts: dict[str, str] = {}
    registry_config_dirs: list[str] = msgspec.field(
        default_factory=lambda: ["/etc/wharfie/certs.d", "/etc/containerd/certs.d"]
    )
    """Directories with one directory per registry that holds a hosts.toml; the first that exists counts."""
    insecure_registries: list[str] = []
    """host[:port] of registries that may be spoken to over plain HTTP; loopback ones always may."""
    max_concurrent_downloads: int = 3
    """Layers that one pull fetches and unpacks at a time."""
    max_layer_size: int = 64 << 30
    """A layer that unpacks to more is refused."""
    stop_timeout: int = 10
    """Seconds between a container's stop signal and SIGKILL, where neither it nor the request says."""
    shutdown_timeout: int = 15
    """Seconds that running requests get at shutdown."""
    max_request_body: int = 8 << 20
    """Larger JSON requests are refused. Streams (archives, builds) are not counted."""
    gc: bool = True
    """Collect garbage by itself after images are removed."""

    def path(self, *parts: str) -> str:
        """A path below `root`."""
        return os.path.join(self.root, *parts)

    def run_path(self, *parts: str) -> str:
        """A path below `state`."""
        return os.path.join(self.state, *parts)

    def bundle(self, ns: str, container_id: str) -> str:
        return os.path.join(self.root, "containers", ns, container_id)

    def addresses(self) -> list[str]:
        return self.hosts or [f"unix://{self.run_path('wharfie.sock')}"]


_FIELDS = {f.name: f for f in msgspec.structs.fields(Config)}


def _nearest(key: str) -> str | None:
    import difflib

    found = difflib.get_close_matches(key, list(_FIELDS), n=1, cutoff=0.5)
    return found[0] if found else None


def _line_of(text: str, key: str) -> int | None:
    for number, line in enumerate(text.splitlines(), 1):
        if line.split("=", 1)[0].strip().strip("\"'[]") == key:
            return number
    return None


def _where(path: str, text: str, key: str) -> str:
    line = _line_of(text, key)
    return f"{path}:{line}" if line else path


def parse(text: str, path: str) -> Config:
    """Raises InvalidArgument naming file, line, key, and the nearest key or the type that it takes."""
    import tomllib

    try:
        document: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise InvalidArgument(f"read config {path!r}: {e}") from e
    for key in document:
        if key not in _FIELDS:
            near = _nearest(key)
            raise InvalidArgument(
                f"read config: {_where(path, text, key)}: unknown key {key!r}",
                hint=f"did you mean {near!r}?" if near else "`wharfied config default` prints all keys",
            )
    try:
        config = msgspec.convert(document, Config)
    except msgspec.ValidationError as e:
        found = next((k for k in document if f"`$.{k}" in str(e)), "")
        raise InvalidArgument(f"read config: {_where(path, text, found)}: {e}") from e
    check(config, path)
    return config


def load(path: str | None) -> Config:
    """The configuration of `path`, or of the default file where it exists. Raises NotFound, InvalidArgument."""
    chosen = path or DEFAULT_CONFIG
    try:
        with open(chosen, encoding="utf-8") as f:
            text = f.read()
    except FileNotFoundError as e:
        if path is None:
            return Config()
        raise NotFound(f"read config {chosen!r}: no such file") from e
    except PermissionError as e:
        raise PermissionDenied(f"read config {chosen!r}: permission denied") from e
    except UnicodeDecodeError as e:
        raise InvalidArgument(f"read config {chosen!r}: not UTF-8") from e
    return parse(text, chosen)


def check(config: Config, where: str) -> None:
    """Values that types do not tell. Raises InvalidArgument."""

    def refuse(key: str, why: str, hint: str | None = None) -> None:
        raise InvalidArgument(f"read config: {where}: {key}: {why}", hint=hint)

    if config.log_level not in LOG_LEVELS:
        refuse("log_level", f"{config.log_level!r} is no level", f"one of {', '.join(LOG_LEVELS)}")
    if config.log_format not in {"text", "json"}:
        refuse("log_format", f"{config.log_format!r} is neither text nor json")
    if config.userns not in {"auto", "host"}:
        refuse("userns", f"{config.userns!r} is neither auto nor host")
    if min(config.userns_range) < 65536:
        refuse("userns_range", "give first id (from 65536 on) and number of ids (at least 65536)")
    if sum(config.userns_range) > 2**32 - 1:
        refuse("userns_range", "it ends behind the last id, 4294967294")
    from wharfie.daemon.services import log_options

    log_options.check(config.log_driver, config.log_opts)
    for key in ("root", "state"):
        if not os.path.isabs(getattr(config, key)):
            refuse(key, f"{getattr(config, key)!r} is not an absolute path")
    if not config.cgroup_parent.startswith("/") and not config.cgroup_parent.endswith(".slice"):
        refuse("cgroup_parent", f"{config.cgroup_parent!r} is neither /path nor name.slice")
    if config.cgroup_driver not in {"auto", "cgroupfs", "systemd"}:
        refuse("cgroup_driver", f"{config.cgroup_driver!r} is none of auto, cgroupfs, systemd")
    if (
        config.cgroup_driver == "systemd"
        and config.cgroup_parent.startswith("/")
        and config.cgroup_parent != DEFAULT_CGROUP_PARENT
    ):
        refuse("cgroup_parent", f"{config.cgroup_parent!r} is a path: the systemd driver takes name.slice")
    for key in ("max_concurrent_downloads", "max_request_body"):
        if getattr(config, key) < 1:
            refuse(key, "must be at least 1")


def cgroup_driver(config: Config, host: HostFacts) -> str:
    """`cgroupfs` or `systemd`. Raises FailedPrecondition where the wanted one cannot work here."""
    if config.cgroup_driver == "systemd" and not host.systemd:
        raise FailedPrecondition(
            "read config: cgroup_driver: systemd does not run this host, or we are not root", hint='use "auto"'
        )
    if config.cgroup_driver != "auto":
        return config.cgroup_driver
    path_wanted = config.cgroup_parent.startswith("/") and config.cgroup_parent != DEFAULT_CGROUP_PARENT
    return "systemd" if host.systemd and host.cgroup_version == 2 and not path_wanted else "cgroupfs"


def default_text() -> str:
    """The default configuration as TOML."""
    lines = ["# Wharfie's daemon. Every key is here with its default."]
    lines += [f"{name} = {_toml(getattr(Config(), name))}" for name in _FIELDS if not get_args(_FIELDS[name].type)]
    lines += [f"{name} = {_toml(getattr(Config(), name))}" for name in _FIELDS if get_args(_FIELDS[name].type)]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else msgspec.json.encode(value).decode()
