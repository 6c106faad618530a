# SPDX-License-Identifier: Apache-2.0
"""Where a registry is: containerd's `certs.d/<host>/hosts.toml`, and Docker's certificate directories.

Spec: containerd docs/hosts.md. Looked up in each configured directory, first hit wins: `<host>:<port>`,
`<host>_<port>_`, then `_default`. One key of our own, `auth_hosts`, names other hosts whose token server may see the
registry's credentials (see `auth`).
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from wharfie.errdefs import InvalidArgument

CAPABILITIES = frozenset({"pull", "resolve", "push"})
_HOST_KEYS = frozenset(
    {"capabilities", "ca", "client", "skip_verify", "override_path", "header", "dial_timeout", "auth_hosts"}
)
_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0}


class Tls(NamedTuple):
    """`client`: (certificate, key) files; key "" where the certificate file has both."""

    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False


class Host(NamedTuple):
    """One server that answers for a registry.

    `authority` is host[:port]; `prefix` the path before the repository name ("/v2"); `registry` the name used in
    references; `own` is False for a mirror: it gets no credentials, and `?ns=` where it needs to know the registry.
    """

    registry: str
    scheme: str
    authority: str
    prefix: str = "/v2"
    capabilities: frozenset[str] = CAPABILITIES
    tls: Tls = Tls()
    headers: tuple[tuple[str, str], ...] = ()
    auth_hosts: tuple[str, ...] = ()
    connect_timeout_s: float | None = None
    own: bool = True

    @property
    def base(self) -> str:
        return f"{self.scheme}://{self.authority}{self.prefix}"


def is_loopback(authority: str) -> bool:
    name = urlsplit(f"//{authority}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def hosts_for(registry: str, config_dirs: Sequence[str], insecure: Collection[str] = ()) -> list[Host]:
    """Servers to ask for `registry` (`docker.io`, `localhost:5000`), in order. Raises InvalidArgument (hosts.toml).

    `insecure`: registries that are spoken to over plain HTTP where no file says otherwise.
    """
    for base in config_dirs:
        for name in _directory_names(registry):
            directory = os.path.join(base, name)
            file = os.path.join(directory, "hosts.toml")
            if os.path.isfile(file):
                return _from_file(registry, file)
            tls = _docker_certificates(directory)
            if tls:
                return [_server(registry)._replace(tls=tls, scheme="https")]
    server = _server(registry)
    return [server._replace(scheme="http") if registry in insecure else server]


def example_path(registry: str, config_dirs: Sequence[str]) -> str:
    """The hosts.toml that a hint should name."""
    return os.path.join(config_dirs[0] if config_dirs else "/etc/wharfie/certs.d", registry, "hosts.toml")


def _server(registry: str) -> Host:
    authority = "registry-1.docker.io" if registry == "docker.io" else registry
    return Host(registry, "http" if is_loopback(authority) else "https", authority)


def _directory_names(registry: str) -> tuple[str, ...]:
    host, colon, port = registry.rpartition(":")
    if colon and port.isdigit():
        return (registry, f"{host}_{port}_", "_default")
    return (registry, "_default")


def _docker_certificates(directory: str) -> Tls | None:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return None
    ca = tuple(os.path.join(directory, n) for n in names if n.endswith(".crt"))
    client = []
    for name in names:
        if name.endswith(".cert"):
            key = os.path.join(directory, f"{name[:-5]}.key")
            if not os.path.exists(key):
                raise InvalidArgument(f"read {directory!r}: {name} has no key {name[:-5]}.key beside it")
            client.append((os.path.join(directory, name), key))
    return Tls(ca, tuple(client)) if ca or client else None


def _from_file(registry: str, file: str) -> list[Host]:
    try:
        with open(file, "rb") as f:
            document = tomllib.load(f)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InvalidArgument(f"read {file!r}: {e}") from e
    tables = document.pop("host", {})
    server = document.pop("server", "")
    if not isinstance(tables, dict) or not isinstance(server, str):
        raise InvalidArgument(f"read {file!r}: server is a URL, host a table of URLs")
    upstream = _entry(registry, file, server, document) if server else _apply(_server(registry), file, document)
    hosts = [_entry(registry, file, url, table) for url, table in tables.items()]
    if not any(
        (h.scheme, h.authority, h.prefix) == (upstream.scheme, upstream.authority, upstream.prefix) for h in hosts
    ):
        hosts.append(upstream)
    own = _server(registry).authority
    return [h._replace(own=h.authority in {own, upstream.authority}) for h in hosts]


def _entry(registry: str, file: str, url: str, table: Any) -> Host:
    if not isinstance(table, dict):
        raise InvalidArgument(f"read {file!r}: host {url!r} is not a table")
    explicit = url if "://" in url else f"{'http' if is_loopback(url.split('/', maxsplit=1)[0]) else 'https'}://{url}"
    parts = urlsplit(explicit)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
        raise InvalidArgument(f"read {file!r}: {url!r} is not http(s)://host[:port][/path]")
    path = parts.path.rstrip("/")
    if not table.get("override_path") and not path.endswith("/v2"):
        path += "/v2"
    return _apply(Host(registry, parts.scheme, parts.netloc, path), file, table)


def _apply(host: Host, file: str, table: Mapping[str, Any]) -> Host:
    unknown = set(table) - _HOST_KEYS
    if unknown:
        raise InvalidArgument(
            f"read {file!r}: unknown key {min(unknown)!r}", hint=f"known keys: {', '.join(sorted(_HOST_KEYS))}"
        )
    capabilities = frozenset(_strings(file, "capabilities", table.get("capabilities", []))) or CAPABILITIES
    if not capabilities <= CAPABILITIES:
        raise InvalidArgument(f"read {file!r}: unknown capability {min(capabilities - CAPABILITIES)!r}")
    header = table.get("header", {})
    if not isinstance(header, dict):
        raise InvalidArgument(f"read {file!r}: header is not a table")
    directory = os.path.dirname(file)
    ca = tuple(os.path.join(directory, p) for p in _strings(file, "ca", table.get("ca", [])))
    tls = Tls(ca, _client_pairs(file, directory, table.get("client", [])), bool(table.get("skip_verify", False)))
    return host._replace(
        capabilities=capabilities,
        tls=tls,
        headers=tuple((k, v) for k, vs in header.items() for v in _strings(file, "header", vs)),
        auth_hosts=_strings(file, "auth_hosts", table.get("auth_hosts", [])),
        connect_timeout_s=_duration(file, table["dial_timeout"]) if "dial_timeout" in table else None,
    )


def _strings(file: str, key: str, value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise InvalidArgument(f"read {file!r}: {key} is not a string or a list of strings")
    return tuple(values)


def _client_pairs(file: str, directory: str, value: Any) -> tuple[tuple[str, str], ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise InvalidArgument(f"read {file!r}: client is not a path or a list of [certificate, key]")
    pairs = []
    for item in items:
        pair = _strings(file, "client", item)
        if len(pair) not in {1, 2}:
            raise InvalidArgument(f"read {file!r}: client is not a path or a list of [certificate, key]")
        paths = [os.path.join(directory, p) if p else "" for p in (*pair, "")[:2]]
        pairs.append((paths[0], paths[1]))
    return tuple(pairs)


def _duration(file: str, value: Any) -> float:
    for unit in ("ms", "s", "m"):
        if isinstance(value, str) and value.endswith(unit):
            try:
                return float(value[: -len(unit)]) * _DURATIONS[unit]
            except ValueError:
                break
    raise InvalidArgument(f"read {file!r}: dial_timeout {value!r} is not a time like '10s'")
