# SPDX-License-Identifier: Apache-2.0
"""Which engine is meant: `-H`, else WHARFIE_HOST, else DOCKER_HOST, else this machine's own."""

from __future__ import annotations

import os
import sys

from wharfie.errdefs import InvalidArgument, Unsupported

STATE = "/run/wharfie"
DEFAULT_SOCKET = f"{STATE}/wharfie.sock"


class Address:
    """`scheme` is unix, npipe or tcp; `path` for the first two, `host` and `port` for the last.

    `is_default` says that nobody chose it: only then may a missing engine be started.
    """

    __slots__ = ("host", "is_default", "path", "port", "scheme", "tls")

    def __init__(self, scheme: str, *, path: str = "", host: str = "", port: int = 0, tls: bool = False) -> None:
        self.scheme = scheme
        self.path = path
        self.host = host
        self.port = port
        self.tls = tls
        self.is_default = False

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path or f'{self.host}:{self.port}'}"


def resolve(flag: str = "") -> Address:
    """Raises: InvalidArgument (malformed), Unsupported (ssh, fd)."""
    given = flag or os.environ.get("WHARFIE_HOST", "") or os.environ.get("DOCKER_HOST", "")
    if given:
        return parse(given)
    default = (
        Address("npipe", path=r"\\.\pipe\wharfie") if sys.platform == "win32" else Address("unix", path=DEFAULT_SOCKET)
    )
    default.is_default = True
    return default


def parse(text: str) -> Address:
    """`unix:///path`, `/path`, `tcp://host:port`, `host:port`, `npipe:////./pipe/name`."""
    scheme, sep, rest = text.partition("://")
    if not sep:
        scheme, rest = ("unix", text) if text.startswith("/") else ("tcp", text)
    if scheme == "unix":
        if not rest:
            raise InvalidArgument(f"engine address `{text}`: no path", hint=f"for example unix://{DEFAULT_SOCKET}")
        return Address("unix", path=rest)
    if scheme == "npipe":
        return Address("npipe", path=rest.replace("/", "\\"))
    if scheme in ("tcp", "http", "https"):
        host, colon, port = rest.rstrip("/").rpartition(":")
        if not colon:
            host, port = port, ""
        tls = scheme == "https" or bool(os.environ.get("DOCKER_TLS_VERIFY") or os.environ.get("DOCKER_TLS"))
        number = port or ("2376" if tls else "2375")
        if not number.isdigit():
            raise InvalidArgument(f"engine address `{text}`: port `{port}` is not a number")
        return Address("tcp", host=host.strip("[]") or "127.0.0.1", port=int(number), tls=tls)
    if scheme in ("ssh", "fd"):
        raise Unsupported(f"engine address `{text}`: {scheme} is not supported yet", hint="forward the socket with `ssh -L` and use unix://")  # fmt: skip
    raise InvalidArgument(f"engine address `{text}`: unknown scheme `{scheme}`", hint="unix://, tcp:// or npipe://")
