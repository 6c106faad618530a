# SPDX-License-Identifier: Apache-2.0
"""Mirrors, private CAs, client certificates, proxies, token servers and registries with a bad day, over real sockets."""

from __future__ import annotations

import os
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import images
from integration.hostile_registry import Answer, HostileRegistry
from integration.layers_only import Stand
from wharfie.errdefs import DataLoss, FailedPrecondition, NotFound, ResourceExhausted, Unauthenticated, Unavailable
from wharfie.registry import Credentials
from wharfie.snapshots.ladder import choose
from wharfie.spec.digest import chain_id
from wharfie.spec.reference import parse_reference
from wharfie.transfer.pull import Puller
from wharfie.transfer.unpack import InProcessUnpacker

IMAGE = images.Image([images.make_tar({"f": b"hello" * 5000})])
USER = Credentials("user", "secret")


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    s = Stand(tmp_path, read_timeout_s=3.0)
    yield s
    s.close()


@pytest.fixture
def hostile() -> Iterator[HostileRegistry]:
    r = HostileRegistry()
    yield r
    r.close()


@pytest.fixture
def mirror() -> Iterator[HostileRegistry]:
    r = HostileRegistry(address="127.0.0.2")
    yield r
    r.close()


def configure(stand: Stand, registry: str, text: str) -> None:
    directory = stand.root / "certs.d" / registry
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(text)


def with_mirror(stand: Stand, mirror: HostileRegistry, origin: HostileRegistry, more: str = "") -> str:
    configure(
        stand, "registry.example",
        f'server = "http://{origin.host}"\n[host."http://{mirror.host}"]\ncapabilities = ["pull", "resolve"]\n{more}',
    )  # fmt: skip
    return "registry.example/t/x:latest"


def test_a_mirror_serves(stand: Stand, mirror: HostileRegistry, hostile: HostileRegistry) -> None:
    mirror.add(IMAGE)
    header = f'[host."http://{mirror.host}".header]\nx-mirror = "yes"\n'
    stand.pull(with_mirror(stand, mirror, hostile, header), credentials=USER)
    assert hostile.seen == []
    assert all("ns=registry.example" in s.path for s in mirror.seen)
    assert all(s.headers["x-mirror"] == "yes" and "authorization" not in s.headers for s in mirror.seen)


@pytest.mark.parametrize("trouble", ["lacks it", "fails", "lies", "wants a login"])
def test_the_registry_itself_is_asked_where_a_mirror_is_no_use(
    stand: Stand, mirror: HostileRegistry, hostile: HostileRegistry, trouble: str
) -> None:
    hostile.add(IMAGE)
    if trouble == "fails":
        mirror.rule("*", "/", lambda a: a.reply(503))
    elif trouble == "lies":
        changed = images.Image([images.make_tar({"evil": b""})])
        for tag in ("latest",):
            mirror.rule("HEAD", "/", lambda a: a.reply(404))
            mirror.manifests[IMAGE.digest] = ("application/vnd.oci.image.manifest.v1+json", changed.manifest)
            mirror.manifests[tag] = mirror.manifests[IMAGE.digest]
            mirror.rule("GET", "/v2/t/x/manifests/latest", lambda a: a.reply(404))
    elif trouble == "wants a login":
        mirror.rule("*", "/", lambda a: a.reply(401, WWW_Authenticate='Basic realm="m"'))
    result = stand.pull(with_mirror(stand, mirror, hostile), credentials=USER)
    assert result.record.target.digest == IMAGE.digest
    assert mirror.seen
    assert all("authorization" not in s.headers for s in mirror.seen)


@pytest.mark.parametrize("trouble", ["breaks off", "wrong bytes"])
def test_blobs_of_a_bad_mirror_come_from_the_registry(
    stand: Stand, mirror: HostileRegistry, hostile: HostileRegistry, trouble: str
) -> None:
    hostile.add(IMAGE)
    mirror.add(IMAGE)
    blob, data = images.digest(IMAGE.blobs[0]), IMAGE.blobs[0]

    def bad(a: Answer) -> None:
        if trouble == "wrong bytes":
            a.reply(200, data[:-9] + bytes(9))
            return
        a.send_response(200)
        a.send_header("Content-Length", str(len(data)))
        a.end_headers()
        a.wfile.write(data[:20])
        a.hang_up()

    mirror.rule("GET", f"/v2/t/x/blobs/{blob}", bad)
    stand.pull(with_mirror(stand, mirror, hostile))
    assert len(mirror.asked("GET", blob)) == len(hostile.asked("GET", blob)) == 1
    assert ("range" in hostile.seen[-1].headers) == (trouble == "breaks off")


def test_a_dead_mirror(stand: Stand, hostile: HostileRegistry) -> None:
    hostile.add(IMAGE)
    configure(stand, "registry.example", f'server = "http://{hostile.host}"\n[host."http://127.0.0.1:1"]\n')
    stand.pull("registry.example/t/x:latest")


def test_neither_has_it(stand: Stand, mirror: HostileRegistry, hostile: HostileRegistry) -> None:
    with pytest.raises(NotFound, match=r'^pull "registry.example/t/x:latest": no such image in registry.example'):
        stand.pull(with_mirror(stand, mirror, hostile))


def test_503_is_tried_again(stand: Stand, hostile: HostileRegistry) -> None:
    left = [3]

    def busy(a: Answer) -> object:
        left[0] -= 1
        return a.reply(503, b"busy") if left[0] >= 0 else False

    hostile.rule("*", "/v2/", busy)
    stand.pull(hostile.add(IMAGE))


def test_head_is_not_understood(stand: Stand, hostile: HostileRegistry) -> None:
    hostile.rule("HEAD", "/v2/", lambda a: a.reply(405))
    assert stand.pull(hostile.add(IMAGE)).record.target.digest == IMAGE.digest


@pytest.mark.parametrize("media_type", ["text/plain", "application/json", ""])
def test_a_file_server_with_types_of_its_own(stand: Stand, hostile: HostileRegistry, media_type: str) -> None:
    ref = hostile.add(IMAGE)
    hostile.rule("*", "/v2/t/x/manifests/", lambda a: a.reply(200, IMAGE.manifest, Content_Type=media_type))
    assert stand.pull(ref).record.target.media_type == "application/vnd.oci.image.manifest.v1+json"


def test_dead_registry(stand: Stand) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1: connection refused") as e:
        stand.pull("127.0.0.1:1/x:latest")
    assert e.value.hint == "is the registry running there?"
    with pytest.raises(Unavailable, match="does not resolve"):
        stand.pull("no-such-host.invalid/x:latest")


def token_server(hostile: HostileRegistry, check: object) -> None:
    def registry(a: Answer) -> object:
        if a.headers.get("Authorization") == "Bearer good":
            return False
        return a.reply(401, WWW_Authenticate=f'Bearer realm="http://{hostile.host}/token?x=1",service="reg"')

    hostile.rule("*", "/v2/", registry)
    hostile.rule("*", "/token", check)  # type: ignore[arg-type]


def test_bearer_by_password(stand: Stand, hostile: HostileRegistry) -> None:
    def check(a: Answer) -> None:
        good = a.headers.get("Authorization") == "Basic dXNlcjpzZWNyZXQ="
        a.reply(200 if good else 401, b'{"access_token":"good","expires_in":300}')

    token_server(hostile, check)
    ref = hostile.add(IMAGE)
    assert stand.registry.login(hostile.host, USER).status == "Login Succeeded"
    with pytest.raises(Unauthenticated, match="wrong user name or password"):
        stand.registry.login(hostile.host, Credentials("user", "x"))
    with pytest.raises(Unauthenticated, match="no such image, or wants a login"):
        stand.pull(ref)
    hostile.seen.clear()
    stand.pull(ref, credentials=USER)
    tokens = hostile.asked("GET", "/token")
    assert len(tokens) == 1
    assert tokens[0].path == "/token?x=1&service=reg&scope=repository%3At%2Fx%3Apull&account=user"


def test_bearer_by_identity_token(stand: Stand, hostile: HostileRegistry) -> None:
    def check(a: Answer) -> None:
        form = a.rfile.read(int(a.headers["Content-Length"])).decode()
        assert "grant_type=refresh_token" in form
        assert "client_id=" in form
        a.reply(200 if "refresh_token=refresh" in form else 401, b'{"access_token":"good","refresh_token":"refresh2"}')

    token_server(hostile, check)
    ref = hostile.add(IMAGE)
    identity = Credentials(identity_token="refresh")
    assert stand.registry.login(hostile.host, identity).identity_token == "refresh2"
    stand.pull(ref, credentials=identity)
    assert hostile.asked("POST", "/token")


def test_a_registry_token_is_sent_as_it_is(stand: Stand, hostile: HostileRegistry) -> None:
    token_server(hostile, lambda a: a.reply(500))
    stand.pull(hostile.add(IMAGE), credentials=Credentials(registry_token="good"))
    assert hostile.asked("GET", "/token") == []


def test_an_expired_token_is_replaced(stand: Stand, hostile: HostileRegistry) -> None:
    good = ["one"]

    def registry(a: Answer) -> object:
        if a.headers.get("Authorization") == f"Bearer {good[0]}":
            return False
        return a.reply(401, WWW_Authenticate=f'Bearer realm="http://{hostile.host}/token"')

    hostile.rule("*", "/v2/", registry)
    hostile.rule("GET", "/token", lambda a: a.reply(200, b'{"token":"%s","expires_in":3600}' % good[0].encode()))
    ref = hostile.add(IMAGE)
    stand.pull(ref)
    good[0] = "two"
    hostile.seen.clear()
    stand.pull(ref)
    assert [s.method for s in hostile.seen] == ["HEAD", "HEAD", "GET", "HEAD"]  # without, old, token, new


def make_ca(tmp_path: Path) -> tuple[str, str]:
    certificate, key = f"{tmp_path}/cert.pem", f"{tmp_path}/key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1,DNS:registry.example", "-keyout", key,
         "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def tls(tmp_path: Path, *, client: bool = False) -> tuple[HostileRegistry, str, str]:
    certificate, key = make_ca(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate)
    return HostileRegistry(tls=context), certificate, key


def test_private_ca_and_skip_verify(stand: Stand, tmp_path: Path) -> None:
    registry, certificate, _ = tls(tmp_path)
    try:
        configure(stand, registry.host, f'server = "https://{registry.host}"\nca = "{certificate}"\n')
        ref = registry.add(IMAGE)
        assert stand.pull(ref).record.target.digest == IMAGE.digest
        configure(stand, "other.example", f'[host."https://{registry.host}"]\nskip_verify = true\n')
        stand.pull("other.example/t/x:latest")
    finally:
        registry.close()


def test_client_certificate(stand: Stand, tmp_path: Path) -> None:
    registry, certificate, key = tls(tmp_path, client=True)
    try:
        base = f'server = "https://{registry.host}"\nca = "{certificate}"\n'
        configure(stand, registry.host, f'{base}client = [["{certificate}", "{key}"]]\n')
        assert stand.pull(registry.add(IMAGE)).record.target.digest == IMAGE.digest
        configure(stand, "none.example", f'[host."https://{registry.host}"]\nca = "{certificate}"\n')
        with pytest.raises((FailedPrecondition, Unavailable)):
            stand.pull("none.example/t/x:latest")
    finally:
        registry.close()


def test_tls_registry_asked_in_plain_http(stand: Stand, hostile: HostileRegistry) -> None:
    """What Go's servers answer; the fix is named."""
    text = b"Client sent an HTTP request to an HTTPS server.\n"
    hostile.rule("*", "/v2/", lambda a: a.reply(400, text, Content_Type="text/plain"))
    with pytest.raises(FailedPrecondition, match="speaks TLS, it was asked in plain HTTP") as e:
        stand.pull(f"{hostile.host}/t/x:latest")
    assert f'server = "https://{hostile.host}" into {stand.root}/certs.d/{hostile.host}/hosts.toml' in (
        e.value.hint or ""
    )


def test_bad_ca_file_is_named(stand: Stand, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    configure(stand, "r.example", f'ca = "{tmp_path}/ca.pem"')
    with pytest.raises(FailedPrecondition, match=r"ca\.pem"):
        stand.pull("r.example/x:latest")


class _Connect(socketserver.StreamRequestHandler):
    """An HTTP proxy that knows CONNECT, to one place."""

    def handle(self) -> None:
        line = self.rfile.readline().decode()
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(line.split()[1])  # type: ignore[attr-defined]
        if self.server.refuse:  # type: ignore[attr-defined]
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        with socket.create_connection(self.server.to) as upstream:  # type: ignore[attr-defined]
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=self._copy, args=(upstream, self.connection))
            back.start()
            self._copy(self.connection, upstream)
            back.join()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.mark.parametrize("refuse", [False, True])
def test_https_through_a_proxy(tmp_path: Path, refuse: bool) -> None:
    registry, certificate, _ = tls(tmp_path)
    proxy = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Connect)
    proxy.daemon_threads = True
    proxy.asked, proxy.refuse, proxy.to = [], refuse, ("127.0.0.1", registry.port)  # type: ignore[attr-defined]
    thread = threading.Thread(target=proxy.serve_forever, args=(0.02,))
    thread.start()
    address = f"http://me:pw@127.0.0.1:{proxy.server_address[1]}"
    stand = Stand(tmp_path / "s", environ={"HTTPS_PROXY": address}, attempts=1)
    try:
        configure(stand, "registry.example", f'ca = "{certificate}"')
        registry.add(IMAGE)
        if refuse:
            with pytest.raises(Unavailable, match=r"the proxy http://127\.0\.0\.1") as e:
                stand.pull("registry.example/t/x:latest")
            assert "pw" not in e.value.full()
        else:
            stand.pull("registry.example/t/x:latest")
        assert set(proxy.asked) == {"registry.example:443"}  # type: ignore[attr-defined]
    finally:
        stand.close()
        proxy.shutdown()
        proxy.server_close()
        thread.join()
        registry.close()


@pytest.mark.root
def test_full_disk(hostile: HostileRegistry) -> None:
    big = images.Image([images.make_tar({"f": os.urandom(3 << 20)})])
    ref = hostile.add(big)
    with tempfile.TemporaryDirectory() as d:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "wh-tiny", d], check=True)
        try:
            stand = Stand(Path(d))
            with pytest.raises(ResourceExhausted, match="no space left on device") as e:
                stand.pull(ref)
            assert "free some space" in (e.value.hint or "")
            assert stand.partials() == []
            assert stand.names() == []
            stand.close()
        finally:
            subprocess.run(["umount", d], check=True)


@pytest.mark.root
def test_with_this_hosts_own_snapshotter(stand: Stand, hostile: HostileRegistry) -> None:
    snapshotter, _ = choose(str(stand.root), str(stand.root / "run"), None)
    puller = Puller(stand.registry, stand.content, snapshotter, InProcessUnpacker(snapshotter))
    image = images.Image([images.busybox_tar(), images.make_tar({"etc/more": b"x"})])
    result = puller.pull(parse_reference(hostile.add(image)), stand.records, stand.leases)
    assert snapshotter.chain(chain_id(result.image.diff_ids)) == result.image.diff_ids
    bad = images.Image([b"this is no tar" * 100])
    with pytest.raises(DataLoss):
        puller.pull(parse_reference(hostile.add(bad, tag="bad")), stand.records, stand.leases)
    assert not snapshotter.has_layer(images.digest(bad.tars[0]))
    snapshotter.close()
