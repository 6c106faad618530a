# SPDX-License-Identifier: Apache-2.0
"""One repository: names to descriptors, descriptors to bytes. Spec: distribution-spec 1.1, "Pull"."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

import msgspec
from urllib3 import exceptions as u3

from wharfie.errdefs import DataLoss, FailedPrecondition, NotFound, Unavailable, Unsupported, WharfieError
from wharfie.registry import Credentials
from wharfie.registry.auth import Authorizer
from wharfie.registry.client import Registry
from wharfie.registry.errors import Context, connection_error, drop, from_answer, quote, redact
from wharfie.registry.hosts import Host, example_path, hosts_for
from wharfie.registry.transport import Body, Request, Response, read_document, same_origin
from wharfie.spec.digest import hasher, is_digest, sha256
from wharfie.spec.image import (
    DOCKER_SCHEMA1,
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
)
from wharfie.spec.reference import Reference

ACCEPT = ", ".join((*sorted(INDEX_TYPES), *sorted(MANIFEST_TYPES), "*/*;q=0.1"))
_SCHEMA1_TYPES = frozenset({DOCKER_SCHEMA1, "application/vnd.docker.distribution.manifest.v1+json"})
_T = TypeVar("_T")
MAX_TAG_PAGES = 1000
MAX_TAGS = 200_000


class BlobStream:
    """Bytes of one blob from `offset` on. `read` raises Unavailable where the connection breaks off; resume by range."""

    def __init__(
        self, response: Response, context: Context, url: str, *, size_bytes: int, offset: int, host: Host
    ) -> None:
        self.offset = offset
        self.host = host
        self._response = response
        self._context = context
        self._url = url
        self._size_bytes = size_bytes

    def read(self, n: int = -1, /) -> bytes:
        left = self._size_bytes - self.offset
        want = left if n < 0 else min(n, left)
        if not want:
            return b""
        try:
            data = self._response.read1(want, decode_content=False)
        except (u3.HTTPError, OSError) as e:
            self.close()
            raise connection_error(self._context, self._url, e) from None
        if not data:
            self.close()
            raise Unavailable(
                f"{self._context.operation}: {self._context.registry} ended a blob after {self.offset} of {self._size_bytes} bytes"
            )
        self.offset += len(data)
        if self.offset == self._size_bytes:
            self._finish()
        return data

    def _finish(self) -> None:
        """Give the connection back where the answer is known to end here; a body without end is cut."""
        if self._response.length_remaining == 0:
            self._response.release_conn()
        else:
            self.close()

    def close(self) -> None:
        self._response.close()


class Repository:
    """One repository: its servers in order (mirrors first), and authorisation for each. Thread-safe."""

    def __init__(
        self,
        registry: Registry,
        reference: Reference,
        credentials: Credentials,
        *,
        operation: str,
        cancel: threading.Event | None,
    ) -> None:
        self.reference = reference
        self.cancel = cancel
        self.transport = registry.transport
        dirs = registry.options.config_dirs
        user = credentials.username or ("a token" if credentials else "")
        self.context = Context(
            f'{operation} "{reference.familiar()}"', reference.domain, example_path(reference.domain, dirs), user
        )
        self.hosts = hosts_for(reference.domain, dirs, registry.options.insecure)
        self._authorizers = {h: Authorizer(self.transport, registry.tokens, h, credentials) for h in self.hosts}
        self._documents: dict[str, bytes] = {}
        self._blamed: dict[Host, int] = {}

    def resolve(self, target: str | None = None) -> Descriptor:
        """Descriptor of the reference's digest or tag, or of `target` (a tag or digest in the same repository).

        Raises: NotFound, Unauthenticated, PermissionDenied, Unavailable, Unsupported (schema 1), DataLoss.
        """
        name = target or self.reference.digest or self.reference.tag or "latest"
        return self._first("resolve", lambda host: self._resolve(host, name))

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The manifest or index a descriptor names, verified. Raises as `resolve` does."""
        cached = self._documents.get(descriptor.digest)
        if cached is None:
            cached = self._first("pull", lambda host: self._get_manifest(host, descriptor.digest))[1]
            self._documents[descriptor.digest] = cached
        if descriptor.size and len(cached) != descriptor.size:
            raise DataLoss(
                f"{self.context.operation}: manifest {descriptor.digest} has {len(cached)} bytes, announced were {descriptor.size}"
            )
        return cached

    def document(self, descriptor: Descriptor) -> bytes:
        """A small blob (an image config), verified. Raises as `resolve` does."""
        if descriptor.size > MAX_DOCUMENT_BYTES:
            raise DataLoss(
                f"{self.context.operation}: config {descriptor.digest} of {descriptor.size} bytes is larger than the {MAX_DOCUMENT_BYTES} that are accepted"
            )
        stream = self.fetch(descriptor)
        parts = []
        while part := stream.read():
            parts.append(part)
        return self._verified(b"".join(parts), descriptor.digest, "config")

    def fetch(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        """Open a blob at byte `offset`. Its digest is not verified here.

        Shapes: the stream ends after `descriptor.size` bytes whatever the registry sends behind them.
        Raises: NotFound, DataLoss (another length is announced), Unauthenticated, PermissionDenied, Unavailable.
        """
        try:
            return self._first("pull", lambda host: self._open_blob(host, descriptor, offset))
        except NotFound:
            for url in descriptor.urls or ():
                stream = self._open_foreign(url, descriptor, offset)
                if stream is not None:
                    return stream
            raise

    def blame(self, host: Host) -> bool:
        """A blob from `host` broke off or was wrong: it is asked last from now on. True if a blameless one is left."""
        self._blamed[host] = self._blamed.get(host, 0) + 1
        return any("pull" in h.capabilities and h not in self._blamed for h in self.hosts)

    def tags(self) -> list[str]:
        """All tags of the repository. Raises as `resolve`; DataLoss beyond MAX_TAG_PAGES or MAX_TAGS."""
        return self._first("resolve", self._tags)

    def _tags(self, host: Host) -> list[str]:
        url = self.url(host, "tags/list")
        found: list[str] = []
        for _ in range(MAX_TAG_PAGES):
            response = self.send(host, "GET", url)
            if response.status != 200:
                raise from_answer(self.context, response, what="no such repository")
            link = response.headers.get("Link", "")
            try:
                document = msgspec.json.decode(read_document(response, self.context, url, MAX_DOCUMENT_BYTES))
                found += [str(t) for t in document.get("tags") or ()]
            except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, TypeError):
                raise DataLoss(f"{self.context.operation}: {host.authority} sends no list of tags") from None
            target, _, rest = link.strip().removeprefix("<").partition(">")
            if not target or "next" not in rest or len(found) > MAX_TAGS:
                break
            url = urljoin(url, target)
            if not same_origin(url, host):
                raise DataLoss(f"{self.context.operation}: {host.authority} continues its list of tags on another host")
        else:
            raise DataLoss(f"{self.context.operation}: {host.authority} lists tags on more than {MAX_TAG_PAGES} pages")
        if len(found) > MAX_TAGS:
            raise DataLoss(f"{self.context.operation}: {host.authority} lists more than {MAX_TAGS} tags")
        return found

    def url(self, host: Host, tail: str, query: dict[str, str] | None = None) -> str:
        q = dict(query or {})
        if not host.own:
            q["ns"] = self.reference.domain
        return f"{host.base}/{self.reference.path}/{tail}" + (f"?{urlencode(q)}" if q else "")

    def send(
        self,
        host: Host,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        *,
        body: Body = None,
        body_bytes: int | None = None,
        actions: str = "pull",
        more_scopes: tuple[str, ...] = (),
    ) -> Response:
        """One authorised request to a server of this repository."""
        request = Request(host, method, url, headers or {}, {}, body, body_bytes)
        scopes = (f"repository:{self.reference.path}:{actions}", *more_scopes)
        return self._authorizers[host].send(request, self.context, scopes, self.cancel)

    def _first(self, capability: str, ask: Callable[[Host], _T]) -> _T:
        """Ask the servers in order; the registry's own answer counts where none of them can serve."""
        failure: WharfieError | None = None
        for host in sorted(self.hosts, key=lambda h: self._blamed.get(h, 0)):
            if capability not in host.capabilities:
                continue
            try:
                return ask(host)
            except WharfieError as e:
                if host.own or failure is None:
                    failure = e
                if host.own and not isinstance(e, NotFound | Unavailable | FailedPrecondition):
                    break
        if failure is None:
            raise FailedPrecondition(
                f"{self.context.operation}: {self.context.config} gives no server the capability {capability!r}"
            )
        raise failure

    def _resolve(self, host: Host, name: str) -> Descriptor:
        url = self.url(host, f"manifests/{name}")
        response = self.send(host, "HEAD", url, {"Accept": ACCEPT})
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        digest = name if is_digest(name) else response.headers.get("Docker-Content-Digest", "")
        length = response.headers.get("Content-Length", "")
        drop(response)
        known = INDEX_TYPES | MANIFEST_TYPES | _SCHEMA1_TYPES
        # A HEAD answer has no body to say why, and not every registry answers HEAD fully: a GET settles both.
        if response.status != 200 or not is_digest(digest) or not length.isdigit() or media_type not in known:
            media_type, data, digest = self._get_manifest(host, name)
            self._documents[digest] = data
            length = str(len(data))
        self._check_type(media_type, host)
        return Descriptor(media_type, digest, int(length))

    def _get_manifest(self, host: Host, name: str) -> tuple[str, bytes, str]:
        """(media type, bytes, digest), verified where `name` is a digest."""
        url = self.url(host, f"manifests/{name}")
        response = self.send(host, "GET", url, {"Accept": ACCEPT})
        if response.status != 200:
            raise from_answer(self.context, response)
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        data = read_document(response, self.context, url, MAX_DOCUMENT_BYTES)
        if media_type not in INDEX_TYPES | MANIFEST_TYPES | _SCHEMA1_TYPES:
            media_type = _own_type(data) or media_type
        self._check_type(media_type, host)
        announced = response.headers.get("Docker-Content-Digest", "")
        digest = name if is_digest(name) else announced if is_digest(announced) else sha256(data)
        return media_type, self._verified(data, digest, "manifest"), digest

    def _check_type(self, media_type: str, host: Host) -> None:
        if media_type in _SCHEMA1_TYPES:
            raise Unsupported(
                f"{self.context.operation}: it is a schema 1 image, a format given up in 2017",
                hint="push it again with a current docker, podman or wharfie",
            )
        if media_type not in INDEX_TYPES | MANIFEST_TYPES:
            raise Unavailable(
                f"{self.context.operation}: {host.authority} answers with {quote(media_type, 80) or 'nothing'}, which is no manifest"
            )

    def _verified(self, data: bytes, digest: str, kind: str) -> bytes:
        h = hasher(digest)
        h.update(data)
        if not digest.endswith(h.hexdigest()):
            raise DataLoss(
                f"{self.context.operation}: {kind} {digest} arrives with the digest {digest.partition(':')[0]}:{h.hexdigest()}",
                hint="the registry, a mirror or a proxy on the way changed it",
            )
        return data

    def _open_blob(self, host: Host, descriptor: Descriptor, offset: int) -> BlobStream:
        url = self.url(host, f"blobs/{descriptor.digest}")
        headers = {"Range": f"bytes={offset}-{descriptor.size - 1}"} if offset else {}
        response = self.send(host, "GET", url, headers)
        return self._stream(response, url, descriptor, offset=offset, host=host)

    def _stream(self, response: Response, url: str, descriptor: Descriptor, *, offset: int, host: Host) -> BlobStream:
        if response.status not in {200, 206}:
            raise from_answer(self.context, response, what=f"no blob {descriptor.digest}")
        start = 0
        if response.status == 206:
            start = _range_start(response.headers.get("Content-Range", ""))
        length = response.headers.get("Content-Length", "")
        if start not in {0, offset} or (length.isdigit() and start + int(length) != descriptor.size):
            drop(response)
            raise DataLoss(
                f"{self.context.operation}: blob {descriptor.digest} of {descriptor.size} bytes is announced with {quote(length)} from byte {start}"
            )
        stream = BlobStream(response, self.context, url, size_bytes=descriptor.size, offset=start, host=host)
        while stream.offset < offset:  # the server does not know ranges: read past what is there already
            stream.read(min(1 << 20, offset - stream.offset))
        return stream

    def _open_foreign(self, url: str, descriptor: Descriptor, offset: int) -> BlobStream | None:
        """A layer that lives elsewhere (Windows base layers). Anonymous, TLS only: the URL is the image author's choice."""
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username:
            raise FailedPrecondition(
                f"{self.context.operation}: layer {descriptor.digest} lives at {redact(url)}, not at an https URL"
            )
        host = Host(parts.netloc, "https", parts.netloc, own=False)
        headers = {"Range": f"bytes={offset}-{descriptor.size - 1}"} if offset else {}
        response = self.transport.send(Request(host, "GET", url, headers), self.context, self.cancel)
        if response.status not in {200, 206}:
            drop(response)
            return None
        return self._stream(response, url, descriptor, offset=offset, host=host)


def _range_start(content_range: str) -> int:
    unit, _, rest = content_range.partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else -1


def _own_type(data: bytes) -> str:
    """What a document calls itself, for servers that send files with whatever type they think fit; "" for no manifest."""
    try:
        keys = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        own = msgspec.json.decode(keys["mediaType"], type=str) if "mediaType" in keys else ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if own:
        return own
    if "fsLayers" in keys:
        return DOCKER_SCHEMA1
    return OCI_INDEX if "manifests" in keys else OCI_MANIFEST if "layers" in keys and "config" in keys else ""
