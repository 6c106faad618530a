# SPDX-License-Identifier: Apache-2.0
"""Image references in Docker's grammar (distribution/reference): familiar in, normalised out.

`debian` means `docker.io/library/debian:latest`; `localhost:5000/x` names a registry because its first part has a
dot, a colon, or is `localhost`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from wharfie.errdefs import InvalidArgument
from wharfie.spec.digest import is_digest

_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?\Z")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z")
_TAG = re.compile(r"[\w][\w.-]{0,127}\Z", re.ASCII)
_HEX64 = re.compile(r"[a-f0-9]{64}\Z")


class Reference(NamedTuple):
    """A normalised reference; at least one of tag and digest is set after `parse_reference`."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def repository(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def familiar_repository(self) -> str:
        """Repository as Docker shows it: docker.io and library/ left out."""
        if self.domain != "docker.io":
            return self.repository
        head, _, rest = self.path.partition("/")
        if rest and ("." in head or head == "localhost"):
            return self.repository  # without docker.io its first part would read as a registry
        return rest if head == "library" and "/" not in rest and rest else self.path

    def familiar(self) -> str:
        return self._join(self.familiar_repository)

    def __str__(self) -> str:
        return self._join(self.repository)

    def _join(self, repository: str) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{repository}{tag}{digest}"


def parse_reference(text: str, *, default_tag: str | None = "latest") -> Reference:
    """Parse and normalise `text`.

    `default_tag` is filled in where neither tag nor digest stands; None leaves both empty.
    Raises InvalidArgument with what is wrong and how it should look.
    """

    def bad(
        why: str, hint: str = "an image is written [registry[:port]/]name[:tag][@sha256:digest]"
    ) -> InvalidArgument:
        return InvalidArgument(f"invalid reference format: {text!r}: {why}", hint=hint)

    if not text:
        raise bad("it is empty")
    if _HEX64.match(text):
        raise bad("64 hex digits are an image id, not a name")
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise bad("its digest is not sha256:<64 hex digits>")
    head, slash, tail = rest.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost" or head.lower() != head):
        domain, remainder = head, tail
        if not _DOMAIN.match(domain):
            raise bad(f"{domain!r} is not a registry host")
    else:
        domain, remainder = "docker.io", rest
    if domain == "index.docker.io":
        domain = "docker.io"
    path, colon, tag = remainder.partition(":")
    if colon and not _TAG.match(tag):
        raise bad(f"tag {tag!r} must be 1 to 128 letters, digits, '_', '.', '-'")
    if path != path.lower():
        raise bad("repository name must be lowercase", f"try {text.lower()!r}")
    if domain == "docker.io" and "/" not in path:
        path = f"library/{path}"
    if not _PATH.match(path) or len(domain) + 1 + len(path) > 255:
        raise bad("its name has characters or a length that no registry takes")
    return Reference(domain, path, tag or (None if digest else default_tag), digest or None)
