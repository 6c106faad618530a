# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 as the Engine API needs it, over one connected socket: keep-alive, chunked bodies both ways, upgrades.

A `Connection` carries one exchange at a time: `send()`, then `receive()`, then read the `Response` to its end, and the
connection can be used again. After an upgrade (101) or on a `Connection: close` answer the socket belongs to the caller.
"""

from __future__ import annotations

from wharfie.errdefs import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from socket import socket

MAX_HEAD = 256 << 10
READ = 256 << 10


class Connection:
    """`early` are bytes received past the head of an answer, still to be consumed; `request` names the last request."""

    __slots__ = ("_bodyless", "early", "host", "request", "sock")

    def __init__(self, sock: socket, host: str = "wharfie") -> None:
        self.sock = sock
        self.host = host
        self.early = b""
        self._bodyless = False
        self.request = ""

    def send(
        self,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | Iterable[bytes] | None = None,
        content_type: str = "application/json",
    ) -> None:
        """Write a request; an iterable body goes out chunked, while it is made."""
        self._bodyless = method == "HEAD"
        self.request = target.partition("?")[0].rpartition("/")[2]
        head = [f"{method} {target} HTTP/1.1\r\nHost: {self.host}\r\nUser-Agent: wharfie\r\n"]
        head += [f"{name}: {_checked(value)}\r\n" for name, value in headers]
        if body is None:
            if method not in ("GET", "HEAD"):
                head.append("Content-Length: 0\r\n")
            payload = b""
        elif isinstance(body, bytes):
            head.append(f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n")
            payload = body
        else:
            head.append(f"Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n")
            payload = b""
        head.append("\r\n")
        try:
            self.sock.sendall("".join(head).encode("latin-1") + payload)
            if body is not None and not isinstance(body, bytes):
                for chunk in body:
                    if chunk:
                        self.sock.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                self.sock.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            if isinstance(body, (bytes, type(None))):
                raise Unavailable(f"{method} {target}: the engine closed the connection") from None
            # An engine that refuses an upload answers and closes before it has read all: the answer says why.

    def receive(self) -> Response:
        """Read the head of the next answer. Raises: Unavailable when the engine hangs up."""
        while True:
            data = self.early
            while (end := data.find(b"\r\n\r\n")) < 0:
                more = self._read()
                if not more:
                    raise Unavailable("the engine closed the connection without an answer", hint="its log may say why")
                data += more
                if len(data) > MAX_HEAD:
                    raise Unavailable("the engine's answer is not HTTP")
            self.early = data[end + 4 :]
            lines = data[:end].decode("latin-1").split("\r\n")
            version, _, rest = lines[0].partition(" ")
            if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
                raise Unavailable(f"the engine's answer is not HTTP: {lines[0][:60]!r}")
            status = int(rest[:3])
            headers = {}
            for line in lines[1:]:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            if status >= 200 or status == 101:
                if self._bodyless:
                    headers.pop("transfer-encoding", "")
                    headers["content-length"] = "0"
                return Response(self, status, headers)

    def _read(self) -> bytes:
        try:
            return self.sock.recv(READ)
        except ConnectionResetError:
            return b""

    def take(self) -> bytes:
        """Bytes that are there, or the next ones; b"" at the end."""
        if self.early:
            data, self.early = self.early, b""
            return data
        return self._read()

    def close(self) -> None:
        self.sock.close()


class Response:
    """`headers` have lower-case names. The body is read once: by `read()` or by `chunks()`."""

    __slots__ = ("connection", "headers", "length", "status")

    def __init__(self, connection: Connection, status: int, headers: dict[str, str]) -> None:
        self.connection = connection
        self.status = status
        self.headers = headers
        length = headers.get("content-length")
        self.length = int(length) if length and length.isdigit() else None
        if status in (204, 304):
            self.length = 0

    def read(self) -> bytes:
        parts = list(self.chunks())
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def chunks(self) -> Iterator[bytes]:
        """The body, piece by piece as it comes."""
        if self.status == 101:
            return self._until_closed()
        if "chunked" in self.headers.get("transfer-encoding", ""):
            return self._chunked()
        return self._until_closed() if self.length is None else self._counted(self.length)

    def discard(self) -> None:
        for _ in self.chunks():
            pass

    def _until_closed(self) -> Iterator[bytes]:
        while data := self.connection.take():
            yield data

    def _counted(self, left: int) -> Iterator[bytes]:
        connection = self.connection
        while left:
            data = connection.take()
            if not data:
                raise Unavailable(f"the engine's answer ends {left} bytes early")
            if len(data) > left:
                connection.early = data[left:]
                data = data[:left]
            left -= len(data)
            yield data

    def _chunked(self) -> Iterator[bytes]:
        """Small chunks that came in one read are joined: a log of short lines comes as one chunk per line."""
        connection = self.connection
        data, pos = connection.early, 0
        connection.early = b""
        ready: list[bytes] = []
        while True:
            end = data.find(b"\r\n", pos)
            if end >= 0:
                size = int(data[pos:end].partition(b";")[0], 16)
                have = len(data) - end - 2
                if have >= size + 2:
                    if size:
                        ready.append(data[end + 2 : end + 2 + size])
                        pos = end + 4 + size
                        continue
                    if ready:
                        yield b"".join(ready)
                    connection.early = data[end + 4 :]  # trailers are not used by the Engine API
                    return
            if ready:
                yield ready[0] if len(ready) == 1 else b"".join(ready)
                ready.clear()
            if end >= 0 and size > READ:  # a big chunk is passed on as it comes
                left = size
                data = data[end + 2 :]
                while left:
                    if part := data[:left]:
                        left -= len(part)
                        data = data[len(part) :]
                        yield part
                    else:
                        data = self._more()
                while len(data) < 2:
                    data += self._more()
                pos = 2
                continue
            data, pos = data[pos:] + self._more(), 0

    def _more(self) -> bytes:
        data = self.connection.take()
        if not data:
            raise Unavailable("the engine's answer ends early")
        return data


def _checked(value: str) -> str:
    if "\r" in value or "\n" in value:
        raise ValueError("line break in a header")
    return value


def query(path: str, /, **params: str | int | bool | list[str] | None) -> str:
    """`path?a=b`; None, "" and False are left out, True is 1, a list repeats the name."""
    pairs = []
    for name, value in params.items():
        if value is None or value is False or value == "":
            continue
        values = value if isinstance(value, list) else ["1" if value is True else str(value)]
        pairs += [f"{name}={escape(v)}" for v in values]
    return f"{path}?{'&'.join(pairs)}" if pairs else path


_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def escape(text: str, safe: bytes = b"") -> str:
    """Percent-encoding (RFC 3986), `urllib.parse` being 5 ms away."""
    data = text.encode("utf-8", "surrogateescape")
    return "".join(chr(b) if b in _SAFE or b in safe else f"%{b:02X}" for b in data)
