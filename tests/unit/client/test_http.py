# SPDX-License-Identifier: Apache-2.0
"""The HTTP client against a real socket whose other end says exactly what each case needs, in pieces of any size."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from wharfie.client.engine import error_of, values
from wharfie.client.http import READ, Connection, escape, query
from wharfie.errdefs import Conflict, NotFound, Unavailable, WharfieError


class Peer:
    def __init__(self) -> None:
        ours, self.far = socket.socketpair()
        self.connection = Connection(ours)
        self._thread: threading.Thread | None = None

    def say(self, data: bytes, piece: int = 0, *, close: bool = True) -> None:
        def send() -> None:
            step = piece or len(data) or 1
            try:
                for at in range(0, len(data), step):
                    self.far.sendall(data[at : at + step])
                if close:
                    self.far.shutdown(socket.SHUT_WR)
            except OSError:  # the client has heard enough
                return

        self._thread = threading.Thread(target=send)
        self._thread.start()

    def end(self) -> None:
        self.connection.close()
        if self._thread is not None:
            self._thread.join()
        self.far.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    p = Peer()
    yield p
    p.end()


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


BIG = bytes(range(256)) * (READ // 256 + 100)


@pytest.mark.parametrize("piece", [0, 1, 2, 3, 7, 1000])
@pytest.mark.parametrize("parts", [(), (b"a",), (b"line\n",) * 50, (b"x" * 3000, b"y", b"z" * 5000)])
def test_chunked(peer: Peer, piece: int, parts: tuple[bytes, ...]) -> None:
    peer.say(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*parts) + b"HTTP/1.1 204 No\r\n\r\n", piece
    )
    response = peer.connection.receive()
    assert response.read() == b"".join(parts)
    assert peer.connection.receive().status == 204  # not a byte too many was taken


@pytest.mark.parametrize("piece", [0, 65536, READ + 1, READ * 2 + 5])
def test_large_chunks(peer: Peer, piece: int) -> None:
    parts = (BIG, b"small", BIG + b"!", BIG)
    peer.say(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(*parts) + b"HTTP/1.1 204 No\r\n\r\n", piece
    )
    assert peer.connection.receive().read() == b"".join(parts)
    assert peer.connection.receive().status == 204


@pytest.mark.parametrize("piece", [0, 1, 5])
def test_keep_alive(peer: Peer, piece: int) -> None:
    peer.say(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 304 Same\r\n\r\nHTTP/1.1 200 OK\r\n\r\nrest", piece
    )
    assert peer.connection.receive().read() == b"hello"
    assert peer.connection.receive().read() == b""
    assert peer.connection.receive().read() == b"rest"


def test_upgrade_keeps_early_bytes(peer: Peer) -> None:
    peer.say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nraw")
    response = peer.connection.receive()
    assert response.status == 101
    assert peer.connection.early == b"raw"


def test_head_has_no_body(peer: Peer) -> None:
    peer.say(b"HTTP/1.1 404 Not Found\r\nContent-Length: 61\r\n\r\n", close=False)
    peer.connection.send("HEAD", "/x")
    assert isinstance(error_of(peer.connection.receive()), NotFound)


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"x" * 300_000],
    ids=["nothing", "cut", "ssh", "no status", "endless"],
)
def test_no_answer(peer: Peer, answer: bytes) -> None:
    peer.say(answer, 10_000)
    with pytest.raises(Unavailable):
        peer.connection.receive()


@pytest.mark.parametrize(
    "body", [b"Content-Length: 9\r\n\r\nshort", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"]
)  # fmt: skip
def test_cut_body(peer: Peer, body: bytes) -> None:
    peer.say(b"HTTP/1.1 200 OK\r\n" + body)
    with pytest.raises(Unavailable, match="early"):
        peer.connection.receive().read()


def test_request_is_well_formed(peer: Peer) -> None:
    peer.connection.send("POST", "/a?b=c", headers=[("X-A", "1")], body=b"{}")
    peer.connection.send("POST", "/b", body=iter([b"one", b"", b"two"]), content_type="application/x-tar")
    peer.connection.send("POST", "/c")
    peer.connection.close()
    sent = b"".join(iter(lambda: peer.far.recv(65536), b""))
    assert sent == (
        b"POST /a?b=c HTTP/1.1\r\nHost: wharfie\r\nUser-Agent: wharfie\r\nX-A: 1\r\nContent-Type: application/json\r\n"
        b"Content-Length: 2\r\n\r\n{}"
        b"POST /b HTTP/1.1\r\nHost: wharfie\r\nUser-Agent: wharfie\r\nContent-Type: application/x-tar\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        b"POST /c HTTP/1.1\r\nHost: wharfie\r\nUser-Agent: wharfie\r\nContent-Length: 0\r\n\r\n"
    )


def test_no_header_injection(peer: Peer) -> None:
    with pytest.raises(ValueError, match="line break"):
        peer.connection.send("GET", "/", headers=[("X", "a\r\nY: b")])


@pytest.mark.parametrize(
    ("status", "body", "kind", "message", "hint"),
    [
        (404, b'{"message":"No such container: x"}', NotFound, "No such container: x", None),
        (409, b'{"message":"taken","code":"ConflictError","hint":"rename it"}', Conflict, "taken", "rename it"),
        (500, b'{"message":"gone","code":"NotFoundError"}', NotFound, "gone", None),
        (418, b"tea", WharfieError, "tea", None),
        (500, b"", WharfieError, "the engine answers with status 500", None),
    ],
)
def test_errors(  # noqa: PLR0917 - one column each
    peer: Peer, status: int, body: bytes, kind: type[WharfieError], message: str, hint: str | None
) -> None:
    peer.say(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
    error = error_of(peer.connection.receive())
    assert isinstance(error, kind)
    assert (error.message, error.hint, error.fields["status"]) == (message, hint, status)


def test_query() -> None:
    assert query("/x") == "/x"
    assert (
        query("/x", a="b c&d", n=None, e="", f=False, t=True, i=0, many=["1", "2"])
        == "/x?a=b%20c%26d&t=1&i=0&many=1&many=2"
    )
    assert escape("../ä") == "..%2F%C3%A4"
    assert escape("a/b:c@d", b"/:@") == "a/b:c@d"


def test_values_of_a_stream() -> None:
    assert list(values([b'{"a":1}\n{"b"', b":2}\n", b'{"c":3}', b'{"d":4}'])) == [
        {"a": 1},
        {"b": 2},
        {"c": 3},
        {"d": 4},
    ]
