# SPDX-License-Identifier: Apache-2.0
"""Credentials that clients send along: X-Registry-Auth and the body of POST /auth. Never logged, never stored."""

from __future__ import annotations

import base64
import binascii

import msgspec

from wharfie.errdefs import InvalidArgument
from wharfie.registry import Credentials

_HUB = frozenset({"", "index.docker.io", "docker.io", "registry-1.docker.io", "registry.hub.docker.com"})


class AuthConfig(msgspec.Struct):
    """Docker's AuthConfig; keys are its own."""

    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


def registry_of(server: str) -> str:
    """Registry host of a server address, which may be a URL. `https://index.docker.io/v1/` is docker.io."""
    host = server.partition("://")[2] or server
    host = host.partition("/")[0].lower()
    return "docker.io" if host in _HUB else host


def decode_auth_config(data: bytes) -> AuthConfig:
    """Raises InvalidArgument, without a word of what was in it."""
    try:
        config = msgspec.json.decode(data or b"{}", type=AuthConfig)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        raise InvalidArgument("read registry credentials: not a JSON object of strings") from None
    if config.auth and not config.username:
        try:
            user, _, password = base64.b64decode(config.auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidArgument("read registry credentials: auth is not base64 of user:password") from None
        config.username, config.password = user, password.rstrip("\0")
    return config


def credentials_of(config: AuthConfig) -> Credentials | None:
    found = Credentials(config.username, config.password, config.identitytoken, config.registrytoken)
    return found or None


def decode_header(header: str) -> Credentials | None:
    """X-Registry-Auth: base64url of an AuthConfig; None where nothing is in it. Raises InvalidArgument."""
    text = header.strip()
    if not text:
        return None
    try:
        data = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument(
            "read header X-Registry-Auth: not base64", hint="it is the base64url form of a JSON object"
        ) from None
    return None if data.strip() in {b"", b"null"} else credentials_of(decode_auth_config(data))
