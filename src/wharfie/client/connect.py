# SPDX-License-Identifier: Apache-2.0
"""A connected stream to the engine. Uses `_socket`, the C half of `socket` (0.1 ms instead of 6)."""

from __future__ import annotations

import errno
import os
import sys

from wharfie.errdefs import PermissionDenied, Unavailable, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

    from wharfie.client.address import Address


def connect(address: Address) -> socket:
    """Raises: Unavailable (nobody answers), PermissionDenied, Unsupported."""
    if address.scheme == "unix":
        return _unix(address)
    if address.scheme == "tcp":
        return _tcp(address)
    raise Unsupported(f"connect to `{address}`: named pipes are not supported yet")


def _unix(address: Address) -> socket:
    if sys.platform == "win32":
        raise Unsupported(f"connect to `{address}`: unix sockets need a Unix machine")
    import _socket

    s = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        s.connect(address.path)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ECONNREFUSED) and address.is_default and os.geteuid() == 0:
            from wharfie.client.launch import start_and_wait

            start_and_wait(address, s.connect)
            return s  # type: ignore[return-value,unused-ignore]
        s.close()
        raise _refused(address, e) from e
    return s  # type: ignore[return-value,unused-ignore]


def _tcp(address: Address) -> socket:
    import socket

    try:
        s = socket.create_connection((address.host, address.port), timeout=30)
    except OSError as e:
        raise _refused(address, e) from e
    s.settimeout(None)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _tls(s, address) if address.tls else s


def _tls(plain: socket, address: Address) -> socket:
    import ssl

    where = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
    context = ssl.create_default_context()
    try:
        if os.path.exists(f"{where}/ca.pem"):
            context = ssl.create_default_context(cafile=f"{where}/ca.pem")
        if os.path.exists(f"{where}/cert.pem"):
            context.load_cert_chain(f"{where}/cert.pem", f"{where}/key.pem")
        if not os.environ.get("DOCKER_TLS_VERIFY"):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(plain, server_hostname=address.host)
    except OSError as e:
        plain.close()
        raise Unavailable(f"connect to `{address}`: TLS: {e}", hint=f"certificates are read from {where}") from e


def _refused(address: Address, e: OSError) -> PermissionDenied | Unavailable:
    cause = e.strerror.lower() if e.strerror else str(e)
    if e.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(
            f"connect to the engine at `{address}`: {cause}",
            hint="run it as root, or join the socket's group (`sudo usermod -aG wharfie $USER`, then log in again)",
        )
    return Unavailable(
        f"connect to the engine at `{address}`: {cause}",
        hint="start it with `wharfied` as root, or say where it listens with -H or WHARFIE_HOST",
    )
