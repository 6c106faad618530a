# SPDX-License-Identifier: Apache-2.0
"""The client that a daemon keeps for all registries. Light: urllib3 (60 ms, 8 MB) is loaded by the first request."""

from __future__ import annotations

import threading

from wharfie.registry import Credentials, RegistryOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.registry.auth import LoginResult, TokenCache
    from wharfie.registry.repository import Repository
    from wharfie.registry.transport import Transport
    from wharfie.spec.reference import Reference


class Registry:
    """All registries, seen from one daemon. Thread-safe; `close()` drops idle connections."""

    def __init__(self, options: RegistryOptions | None = None) -> None:
        self.options = options or RegistryOptions()
        self._lock = threading.Lock()
        self._shared: tuple[Transport, TokenCache] | None = None

    @property
    def transport(self) -> Transport:
        return self._open()[0]

    @property
    def tokens(self) -> TokenCache:
        return self._open()[1]

    def _open(self) -> tuple[Transport, TokenCache]:
        with self._lock:
            if self._shared is None:
                from wharfie.registry.auth import TokenCache
                from wharfie.registry.transport import Transport

                self._shared = (Transport(self.options), TokenCache())
            return self._shared

    def repository(
        self,
        reference: Reference,
        credentials: Credentials | None = None,
        *,
        operation: str = "pull",
        cancel: threading.Event | None = None,
    ) -> Repository:
        """One repository for one operation. Reads hosts.toml. Raises InvalidArgument (hosts.toml)."""
        from wharfie.registry.repository import Repository

        return Repository(self, reference, credentials or Credentials(), operation=operation, cancel=cancel)

    def login(self, host: str, credentials: Credentials) -> LoginResult:
        """Check a login. Raises Unauthenticated, Unavailable, FailedPrecondition."""
        from wharfie.registry.auth import verify

        return verify(self.transport, host, credentials)

    def close(self) -> None:
        with self._lock:
            shared, self._shared = self._shared, None
        if shared is not None:
            shared[0].close()
