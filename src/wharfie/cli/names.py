# SPDX-License-Identifier: Apache-2.0
"""Image names as people write them: NAME[:TAG][@DIGEST], `docker.io/library/` understood."""

from __future__ import annotations

HUB = "docker.io"


def split(image: str) -> tuple[str, str]:
    """(name, tag or digest); "" where neither is given."""
    name, at, digest = image.partition("@")
    head, slash, last = name.rpartition("/")
    base, _, tag = last.partition(":")
    return head + slash + base, digest if at else tag


def host(name: str) -> str:
    """The registry that a name means."""
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        return HUB if first == "index.docker.io" else first
    return HUB


def full(image: str) -> str:
    """`debian` -> `docker.io/library/debian:latest`."""
    name, tag = split(image)
    where = host(name)
    path = name.partition("/")[2] if name.startswith((f"{where}/", "index.docker.io/")) else name
    if where == HUB and "/" not in path:
        path = f"library/{path}"
    separator = "@" if ":" in tag else ":"
    return f"{where}/{path}{separator}{tag or 'latest'}"
