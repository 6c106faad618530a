# SPDX-License-Identifier: Apache-2.0
"""Registries: a client of the OCI distribution spec 1.1 (and Docker's, its ancestor). No state on disk.

    registry = Registry(RegistryOptions())                   # one per daemon: connection pools, tokens
    repository = registry.repository(reference, credentials) # one per pull or push
    descriptor = repository.resolve()                        # name -> Descriptor
    data = repository.manifest(descriptor)                   # small documents, verified
    stream = repository.fetch(descriptor, offset=n)          # blobs, from byte n; the caller verifies the digest

`hosts` says where a registry is (containerd's `hosts.toml`), `transport` speaks HTTP (pools, proxies, redirects,
retries), `auth` gets tokens, `repository` pulls, `push` pushes, `errors` turns answers into errors people can act on;
`client` is the door to all of them and costs nothing before the first request.

Trust: a registry may lie in every byte. Documents have size limits and are verified here; blob bytes are counted here
and verified by whoever stores them. Credentials are values of the caller; they go to the registry they are for, and to
its token server under the rules in `auth`, never along a redirect to another host, never into an error or a log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

DEFAULT_CONFIG_DIRS = ("/etc/wharfie/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d")


class Credentials(NamedTuple):
    """What a user gave for one registry. `identity_token` is an OAuth2 refresh token, `registry_token` a ready Bearer."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __bool__(self) -> bool:
        return any(self)

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r})"


class RegistryOptions(NamedTuple):
    """`environ`: where proxy variables are looked up (the daemon's environment). Timeouts in seconds.

    `insecure`: host[:port] of registries that are spoken to over plain HTTP where no hosts.toml says otherwise.
    `header_timeout_s` bounds the whole head of an answer, `read_timeout_s` each wait for body bytes, `max_retry_after_s`
    all the waiting for a busy registry (429, 5xx) that one request may do.
    """

    config_dirs: tuple[str, ...] = DEFAULT_CONFIG_DIRS
    insecure: tuple[str, ...] = ()
    environ: Mapping[str, str] = {}
    user_agent: str = "wharfie/0.1"
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    header_timeout_s: float = 60.0
    attempts: int = 5
    backoff_s: float = 0.2
    max_retry_after_s: float = 60.0
