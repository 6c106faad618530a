# SPDX-License-Identifier: Apache-2.0
"""Pushing: blobs and manifests to one repository. Spec: distribution-spec 1.1, "Push"."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from urllib.parse import urlencode, urljoin, urlsplit

from wharfie.errdefs import DataLoss, FailedPrecondition, Unavailable
from wharfie.registry.errors import drop, from_answer, redact
from wharfie.registry.hosts import Host
from wharfie.registry.repository import Repository
from wharfie.registry.transport import Response, wait
from wharfie.spec.image import Descriptor

CHUNK_BYTES = 256 << 10
PATCH_BYTES = 16 << 20
_ATTEMPTS = 4
Sent = Callable[[int], None]


class Upload:
    """Pushes into `repository`. Thread-safe; blobs may go in parallel."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._context = repository.context
        self._host = _push_host(repository)

    def has_blob(self, digest: str) -> bool:
        url = self._repository.url(self._host, f"blobs/{digest}")
        response = self._send("HEAD", url)
        drop(response)
        if response.status in {401, 403}:
            raise from_answer(self._context, response)
        return response.status == 200

    def has_manifest(self, descriptor: Descriptor) -> bool:
        url = self._repository.url(self._host, f"manifests/{descriptor.digest}")
        response = self._send("HEAD", url, {"Accept": descriptor.media_type})
        drop(response)
        return response.status == 200

    def mount(self, digest: str, source: str) -> bool:
        """Ask for a blob of repository `source` of the same registry. False: it has to be uploaded."""
        url = self._repository.url(self._host, "blobs/uploads/", {"mount": digest, "from": source})
        scope = f"repository:{source}:pull"
        response = self._send("POST", url, more_scopes=(scope,))
        location = response.headers.get("Location", "")
        drop(response)
        if response.status == 202 and location:  # an upload was opened instead; leave none behind
            drop(self._send("DELETE", urljoin(url, location)))
        return response.status == 201

    def blob(self, descriptor: Descriptor, open_fd: Callable[[], int], sent: Sent) -> None:
        """Upload one blob: in one PUT, in pieces where the way is too narrow for that. `sent` gets bytes so far.

        Raises: Unauthenticated, PermissionDenied, Unavailable, DataLoss (the registry has another digest).
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                response = self._put_whole(descriptor, open_fd, sent)
                if response.status == 413 and descriptor.size > PATCH_BYTES:
                    drop(response)
                    response = self._put_pieces(descriptor, open_fd, sent)
            except Unavailable:
                if attempt >= _ATTEMPTS:
                    raise
                self._pause(attempt)
                continue
            if response.status in {429, 500, 502, 503, 504} and attempt < _ATTEMPTS:
                drop(response)
                self._pause(attempt)
                continue
            if response.status in {201, 204}:
                drop(response)
                return
            if response.status == 400:
                error = from_answer(self._context, response, what="")
                raise DataLoss(f"{error.message} (blob {descriptor.digest})")
            raise from_answer(self._context, response, what="no such upload")

    def manifest(self, media_type: str, data: bytes, target: str, digest: str) -> None:
        """Put a manifest or index under a tag or digest. Raises as `blob`."""
        url = self._repository.url(self._host, f"manifests/{target}")
        response = self._send("PUT", url, {"Content-Type": media_type}, body=data)
        if response.status not in {200, 201, 202}:
            raise from_answer(self._context, response, what="no such repository")
        drop(response)
        stored = response.headers.get("Docker-Content-Digest", digest)
        if stored != digest:
            raise DataLoss(
                f"{self._context.operation}: {self._context.registry} stored manifest {digest} as {stored[:80]}"
            )

    def _pause(self, attempt: int) -> None:
        delay_s = self._repository.transport.options.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        wait(delay_s, self._repository.cancel, self._context)

    def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        *,
        body: bytes | Callable[[], Iterator[bytes]] | None = None,
        body_bytes: int | None = None,
        more_scopes: tuple[str, ...] = (),
    ) -> Response:
        return self._repository.send(
            self._host, method, url, headers, body=body, body_bytes=body_bytes, actions="pull,push",
            more_scopes=more_scopes,
        )  # fmt: skip

    def _begin(self) -> str:
        url = self._repository.url(self._host, "blobs/uploads/")
        response = self._send("POST", url, {"Content-Length": "0"})
        if response.status != 202 or "Location" not in response.headers:
            if response.status == 202:
                drop(response)
                raise Unavailable(
                    f"{self._context.operation}: {self._host.authority} opens an upload without saying where"
                )
            raise from_answer(self._context, response, what="no such repository")
        drop(response)
        return self._checked(urljoin(url, response.headers["Location"]))

    def _checked(self, location: str) -> str:
        """An upload may go to another host (a storage service), but not out of TLS.

        A registry behind a TLS proxy often thinks that it is plain HTTP; on its own host that is put right.
        """
        parts = urlsplit(location)
        if self._host.scheme == "https" and parts.scheme != "https":
            if parts.hostname == urlsplit(f"//{self._host.authority}").hostname:
                return parts._replace(scheme="https", netloc=self._host.authority).geturl()
            raise FailedPrecondition(
                f"{self._context.operation}: {self._host.authority} wants the upload sent without TLS to {redact(location)}"
            )
        return location

    def _put_whole(self, descriptor: Descriptor, open_fd: Callable[[], int], sent: Sent) -> Response:
        url = _with_digest(self._begin(), descriptor.digest)
        return self._send(
            "PUT",
            url,
            {"Content-Type": "application/octet-stream"},
            body=lambda: _chunks(open_fd, 0, descriptor.size, sent),
            body_bytes=descriptor.size,
        )

    def _put_pieces(self, descriptor: Descriptor, open_fd: Callable[[], int], sent: Sent) -> Response:
        url, offset = self._begin(), 0
        while offset < descriptor.size:
            end = min(offset + PATCH_BYTES, descriptor.size)
            start = offset
            response = self._send(
                "PATCH",
                url,
                {"Content-Type": "application/octet-stream", "Content-Range": f"{start}-{end - 1}"},
                body=lambda start=start, end=end: _chunks(open_fd, start, end, sent),  # type: ignore[misc]
                body_bytes=end - start,
            )
            if response.status != 202:
                return response
            drop(response)
            url = self._checked(urljoin(url, response.headers.get("Location", url)))
            last = response.headers.get("Range", "").rpartition("-")[2]
            offset = int(last) + 1 if last.isdigit() and start < int(last) + 1 <= end else end
        return self._send("PUT", _with_digest(url, descriptor.digest), {"Content-Length": "0"})


def _push_host(repository: Repository) -> Host:
    """The registry's own server: mirrors take no pushes unless hosts.toml gives them nothing else."""
    able = [h for h in repository.hosts if "push" in h.capabilities]
    if not able:
        raise FailedPrecondition(
            f"{repository.context.operation}: {repository.context.config} gives no server the capability 'push'"
        )
    return next((h for h in reversed(able) if h.own), able[0])


def _with_digest(location: str, digest: str) -> str:
    return f"{location}{'&' if urlsplit(location).query else '?'}{urlencode({'digest': digest})}"


def _chunks(open_fd: Callable[[], int], start: int, end: int, sent: Sent) -> Iterator[bytes]:
    with os.fdopen(open_fd(), "rb", buffering=0) as f:
        f.seek(start)
        while start < end:
            chunk = f.read(min(CHUNK_BYTES, end - start))
            if not chunk:
                raise DataLoss(f"read a blob to upload: it ends after {start} bytes, not {end}")
            yield chunk
            start += len(chunk)
            sent(start)
