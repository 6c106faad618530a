# SPDX-License-Identifier: Apache-2.0
"""Registries that lie, stall, and ask for what is not theirs. Each test is one attack and asserts that it fails."""

from __future__ import annotations

import gzip
import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import images
from integration.hostile_registry import OCI_MANIFEST, Answer, HostileRegistry, digest
from integration.layers_only import Stand
from wharfie.errdefs import (
    DataLoss,
    FailedPrecondition,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unsupported,
    WharfieError,
)
from wharfie.registry import Credentials
from wharfie.spec.image import MAX_DOCUMENT_BYTES

IMAGE = images.Image([images.make_tar({"f": bytes(range(256)) * 4000})])
BLOB = images.digest(IMAGE.blobs[0])
USER = Credentials("user", "s3cret-password")
BASIC = "Basic dXNlcjpzM2NyZXQtcGFzc3dvcmQ="


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    s = Stand(tmp_path, read_timeout_s=2.0, header_timeout_s=0.5, max_retry_after_s=0.3)
    yield s
    assert s.names() == []
    assert not s.layers.layers
    s.close()


@pytest.fixture
def hostile() -> Iterator[HostileRegistry]:
    r = HostileRegistry()
    yield r
    r.close()


@pytest.fixture
def other() -> Iterator[HostileRegistry]:
    r = HostileRegistry(address="127.0.0.2")
    yield r
    r.close()


@pytest.mark.parametrize("what", ["blob", "manifest", "config"])
def test_wrong_digest(stand: Stand, hostile: HostileRegistry, what: str) -> None:
    ref = hostile.add(IMAGE)
    if what == "blob":
        hostile.blobs[BLOB] = IMAGE.blobs[0][:-1] + b"!"
    elif what == "config":
        hostile.blobs[digest(IMAGE.config_blob)] = IMAGE.config_blob.replace(b"test", b"tost")
    else:
        changed = IMAGE.manifest.replace(b"gzip", b"gzup")
        hostile.rule("GET", "/v2/t/x/manifests/", lambda a: a.reply(200, changed, Content_Type=OCI_MANIFEST))
    with pytest.raises(DataLoss):
        stand.pull(ref)
    assert stand.partials() == []
    assert not stand.content.has(BLOB)


def test_short_body(stand: Stand, hostile: HostileRegistry) -> None:
    ref = hostile.add(IMAGE)
    hostile.blobs[BLOB] = IMAGE.blobs[0][:100]
    with pytest.raises(DataLoss, match="is announced with 100"):
        stand.pull(ref)


def test_endless_body_is_cut(stand: Stand, hostile: HostileRegistry) -> None:
    ref = hostile.add(IMAGE)

    def endless(a: Answer) -> None:
        a.send_response(200)
        a.send_header("Transfer-Encoding", "chunked")
        a.end_headers()
        while True:
            a.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")

    hostile.rule("GET", f"/v2/t/x/blobs/{BLOB}", endless)
    with pytest.raises(DataLoss):
        stand.pull(ref)
    assert stand.partials() == []


def test_endless_manifest_is_cut(stand: Stand, hostile: HostileRegistry) -> None:
    """CVE-2023-25153 by registry."""

    def endless(a: Answer) -> None:
        a.send_response(200)
        a.send_header("Content-Type", OCI_MANIFEST)
        a.send_header("Transfer-Encoding", "chunked")
        a.end_headers()
        while True:
            a.wfile.write(b"10000\r\n" + b" " * 65536 + b"\r\n")

    hostile.rule("GET", "/v2/", endless)
    with pytest.raises(DataLoss, match=f"more than the {MAX_DOCUMENT_BYTES}"):
        stand.pull(hostile.add(IMAGE))


def test_huge_config_is_refused_unread(stand: Stand, hostile: HostileRegistry) -> None:
    manifest = json.loads(IMAGE.manifest)
    manifest["config"]["size"] = 5 << 30
    hostile.add_manifest(json.dumps(manifest).encode(), OCI_MANIFEST, "big")
    with pytest.raises(DataLoss, match="larger than"):
        stand.pull(f"{hostile.host}/t/x:big")


def test_gzip_bomb(stand: Stand, hostile: HostileRegistry) -> None:
    stand.puller._layers.max_size_bytes = 1 << 20
    with pytest.raises(ResourceExhausted):
        stand.pull(hostile.add(images.Image([bytes(64 << 20)])))
    assert stand.partials() == []


def test_cve_2020_15157_foreign_layer_gets_no_credentials(
    stand: Stand, hostile: HostileRegistry, other: HostileRegistry
) -> None:
    hostile.rule("*", "/v2/", ask_basic)
    manifest = json.loads(IMAGE.manifest)
    manifest["layers"][0]["urls"] = [f"http://{other.host}/layer"]
    hostile.blobs[digest(IMAGE.config_blob)] = IMAGE.config_blob
    hostile.add_manifest(json.dumps(manifest).encode(), OCI_MANIFEST, "foreign")
    other.rule("*", "/", lambda a: a.reply(401, WWW_Authenticate='Basic realm="give"'))
    with pytest.raises(FailedPrecondition, match="not at an https URL"):
        stand.pull(f"{hostile.host}/t/x:foreign", credentials=USER)
    assert other.seen == []


def ask_basic(a: Answer) -> object:
    if a.headers.get("Authorization") == BASIC:
        return False
    return a.reply(401, WWW_Authenticate='Basic realm="x"')


def test_cross_host_redirect_drops_credentials(stand: Stand, hostile: HostileRegistry, other: HostileRegistry) -> None:
    ref = hostile.add(IMAGE)
    hostile.rule("*", "/v2/", ask_basic)
    hostile.rule("GET", "/v2/t/x/blobs/", lambda a: a.reply(307, Location=f"http://{other.host}{a.path}?sig=canary"))
    other.rule("GET", "/v2/t/x/blobs/", lambda a: a.reply(403, b"no: http://h/?sig=canary"))
    with pytest.raises(WharfieError) as e:
        stand.pull(ref, credentials=USER)
    assert other.seen
    assert all("authorization" not in s.headers for s in other.seen)
    assert "canary" not in e.value.full()
    assert "s3cret" not in e.value.full()


def test_redirect_loop(stand: Stand, hostile: HostileRegistry) -> None:
    hostile.rule("*", "/v2/", lambda a: a.reply(302, Location=a.path))
    with pytest.raises(FailedPrecondition, match="redirects in a loop"):
        stand.pull(f"{hostile.host}/t/x:latest")
    assert len(hostile.seen) < 20


def test_redirect_to_a_file(stand: Stand, hostile: HostileRegistry) -> None:
    hostile.rule("*", "/v2/", lambda a: a.reply(302, Location="file:///etc/passwd"))
    with pytest.raises(FailedPrecondition, match="not safe"):
        stand.pull(f"{hostile.host}/t/x:latest")


def bearer(realm: str) -> object:
    def handler(a: Answer) -> object:
        if a.headers.get("Authorization") == "Bearer tok-canary":
            return False
        return a.reply(401, WWW_Authenticate=f'Bearer realm="{realm}",service="reg",scope="ignored"')

    return handler


def test_bearer_realm_on_another_host_gets_no_password(
    stand: Stand, hostile: HostileRegistry, other: HostileRegistry
) -> None:
    hostile.rule("*", "/v2/", bearer(f"http://{other.host}/token"))
    with pytest.raises(FailedPrecondition, match="another owner's host") as e:
        stand.pull(hostile.add(IMAGE), credentials=USER)
    assert "auth_hosts" in (e.value.hint or "")
    assert other.seen == []


def test_anonymous_tokens_may_come_from_anywhere(
    stand: Stand, hostile: HostileRegistry, other: HostileRegistry
) -> None:
    hostile.rule("*", "/v2/", bearer(f"http://{other.host}/token"))
    other.rule("GET", "/token", lambda a: a.reply(200, b'{"token":"tok-canary"}'))
    hostile.add(IMAGE)
    hostile.rule("GET", "/v2/t/x/blobs/", lambda a: a.reply(500))
    with pytest.raises(WharfieError) as e:
        stand.pull(f"{hostile.host}/t/x:latest")
    assert len(other.seen) == 1  # one token for HEAD, GET and blobs
    assert other.seen[0].path.startswith("/token?service=reg&scope=repository%3At%2Fx%3Apull")
    assert "canary" not in e.value.full()


def test_realm_without_tls_of_a_tls_registry(stand: Stand, other: HostileRegistry, tmp_path: Path) -> None:
    registry = tls_registry(tmp_path)
    try:
        trust(stand, registry, ca=f"{tmp_path}/cert.pem")
        registry.rule("*", "/v2/", bearer(f"http://{other.host}/token"))
        with pytest.raises(FailedPrecondition, match="without TLS"):
            stand.pull(registry.add(IMAGE))
        assert other.seen == []
    finally:
        registry.close()


@pytest.mark.parametrize("token", ["a\\r\\nX-Evil: 1", "", "a b", "\\u00e9"])
def test_token_that_would_inject_a_header(stand: Stand, hostile: HostileRegistry, token: str) -> None:
    hostile.rule("*", "/v2/", bearer(f"http://{hostile.host}/token"))
    hostile.rule("GET", "/token", lambda a: a.reply(200, b'{"token":"' + token.encode() + b'"}'))
    with pytest.raises(DataLoss, match="no usable token"):
        stand.pull(hostile.add(IMAGE))


def test_endless_401(stand: Stand, hostile: HostileRegistry) -> None:
    hostile.rule("*", "/v2/", lambda a: a.reply(401, WWW_Authenticate=f'Bearer realm="http://{hostile.host}/token"'))
    hostile.rule("GET", "/token", lambda a: a.reply(200, b'{"token":"t"}'))
    with pytest.raises(Unauthenticated) as e:
        stand.pull(hostile.add(IMAGE), credentials=USER)
    assert len(hostile.seen) < 10
    assert "wharfie login" in (e.value.hint or "")
    with pytest.raises(Unsupported, match="asks for negotiate"):
        hostile.rules.clear()
        hostile.rule("*", "/v2/", lambda a: a.reply(401, WWW_Authenticate="Negotiate"))
        stand.pull(f"{hostile.host}/t/x:latest")


@pytest.mark.parametrize(
    ("after", "asked"), [("99999999999", 2), ("Fri, 31 Dec 2100 23:59:59 GMT", 2), ("-5", 2), ("0", 10)]
)
def test_429_is_waited_for_within_reason(stand: Stand, hostile: HostileRegistry, after: str, asked: int) -> None:
    hostile.rule("*", "/v2/", lambda a: a.reply(429, b"", Retry_After=after))
    start = time.monotonic()
    with pytest.raises(ResourceExhausted, match="too many requests"):
        stand.pull(f"{hostile.host}/t/x:latest")
    assert time.monotonic() - start < 3
    assert len(hostile.seen) == asked  # HEAD and GET


def test_slow_headers(stand: Stand, hostile: HostileRegistry) -> None:
    """Slowloris backwards: each byte of the head is in time."""

    def trickle(a: Answer) -> None:
        a.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(600):
            a.wfile.write(b"X: y\r\n")
            time.sleep(0.02)

    hostile.rule("*", "/v2/", trickle)
    stand.registry.options = stand.registry.options._replace(attempts=1)
    stand.registry.transport.options = stand.registry.options
    start = time.monotonic()
    with pytest.raises(Unavailable, match=r"stopped answering|connection lost"):
        stand.pull(f"{hostile.host}/t/x:latest")
    assert time.monotonic() - start < 3


def test_schema_1(stand: Stand, hostile: HostileRegistry) -> None:
    media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    hostile.add_manifest(b'{"schemaVersion":1,"fsLayers":[]}', media_type, "old")
    with pytest.raises(Unsupported, match="schema 1"):
        stand.pull(f"{hostile.host}/t/x:old")


@pytest.mark.parametrize("disguise", [OCI_MANIFEST, "application/vnd.oci.image.index.v1+json"])
def test_cve_2021_41190_hybrid_document(stand: Stand, hostile: HostileRegistry, disguise: str) -> None:
    document = json.loads(IMAGE.manifest) | {"manifests": []}
    hostile.add(IMAGE)
    hostile.add_manifest(json.dumps(document).encode(), disguise, "hybrid")
    with pytest.raises(DataLoss):
        stand.pull(f"{hostile.host}/t/x:hybrid")


def test_document_that_calls_itself_something_else(stand: Stand, hostile: HostileRegistry) -> None:
    hostile.add(IMAGE)
    hostile.add_manifest(IMAGE.manifest, "application/vnd.docker.distribution.manifest.v2+json", "renamed")
    with pytest.raises(DataLoss, match="it calls itself"):
        stand.pull(f"{hostile.host}/t/x:renamed")


@pytest.mark.parametrize("evil", ["sha256:../../../../etc/passwd", "sha256:" + "0" * 63, "md5:" + "0" * 32])
def test_cve_2024_3727_digest_as_a_path(stand: Stand, hostile: HostileRegistry, evil: str) -> None:
    manifest = json.loads(IMAGE.manifest)
    manifest["layers"][0]["digest"] = evil
    hostile.add_manifest(json.dumps(manifest).encode(), OCI_MANIFEST, "evil")
    with pytest.raises(DataLoss, match="malformed"):
        stand.pull(f"{hostile.host}/t/x:evil")


def test_nested_indexes(stand: Stand, hostile: HostileRegistry) -> None:
    media_type = "application/vnd.oci.image.index.v1+json"
    inner, inner_type = IMAGE.manifest, OCI_MANIFEST
    hostile.add(IMAGE)
    for _ in range(10):
        entry = {"mediaType": inner_type, "digest": digest(inner), "size": len(inner)}
        inner, inner_type = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(), media_type
        hostile.add_manifest(inner, media_type, "deep")
    with pytest.raises(DataLoss, match="nested"):
        stand.pull(f"{hostile.host}/t/x:deep")


def test_wide_index_of_garbage_is_not_crawled(stand: Stand, hostile: HostileRegistry) -> None:
    media_type = "application/vnd.oci.image.index.v1+json"
    wrong = images.Image([images.make_tar({"x": b""})], platform="linux/s390x")
    hostile.add(wrong)
    entry = {"mediaType": OCI_MANIFEST, "digest": wrong.digest, "size": len(wrong.manifest)}
    data = json.dumps({"schemaVersion": 2, "manifests": [entry] * 500}).encode()
    hostile.add_manifest(data, media_type, "wide")
    with pytest.raises(DataLoss, match="more than 32"):
        stand.pull(f"{hostile.host}/t/x:wide")
    assert len(hostile.seen) < 100


def test_more_diff_ids_than_layers(stand: Stand, hostile: HostileRegistry) -> None:
    image = images.Image([images.make_tar({"f": b"1"})])
    config = dict(image.config, rootfs={"type": "layers", "diff_ids": [BLOB, BLOB]})
    image.config_blob = json.dumps(config).encode()
    manifest = json.loads(image.manifest)
    manifest["config"] |= {"digest": digest(image.config_blob), "size": len(image.config_blob)}
    image.manifest = json.dumps(manifest).encode()
    with pytest.raises(DataLoss, match="2 diff_ids for 1 layers"):
        stand.pull(hostile.add(image))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cve_2021_21285_malformed_manifests(stand: Stand, hostile: HostileRegistry, data: st.DataObject) -> None:
    """Whatever a manifest holds, the answer is an error of ours."""
    hostile.add(IMAGE)
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
        max_leaves=6,
    )
    document = json.loads(IMAGE.manifest)
    document[data.draw(st.sampled_from(["config", "layers", "mediaType", "schemaVersion", "manifests"]))] = data.draw(
        json_values
    )
    raw = json.dumps(document).encode()
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    hostile.add_manifest(raw, OCI_MANIFEST, "fuzz")
    hostile.rule("GET", f"/v2/t/x/blobs/{BLOB}", lambda a: a.reply(404))
    with pytest.raises(WharfieError):
        stand.pull(f"{hostile.host}/t/x:fuzz")
    hostile.rules.clear()


def test_html_is_no_registry(stand: Stand, hostile: HostileRegistry) -> None:
    hostile.rule("*", "/v2/", lambda a: a.reply(200, b"<html>login</html>", Content_Type="text/html"))
    with pytest.raises(Unavailable, match="which is no manifest"):
        stand.pull(f"{hostile.host}/t/x:latest")


def test_error_text_of_a_registry_is_tamed(stand: Stand, hostile: HostileRegistry) -> None:
    """containerd 868869eb9, and terminal escapes."""
    message = "\x1b[31mred https://u:pw@h/x?token=canary&a=b " + "A" * 5000
    body = json.dumps({"errors": [{"code": "UNKNOWN", "message": message}]}).encode()
    hostile.rule("*", "/v2/", lambda a: a.reply(418, body))
    with pytest.raises(Unavailable) as e:
        stand.pull(f"{hostile.host}/t/x:latest")
    text = e.value.full()
    assert "canary" not in text
    assert "pw" not in text
    assert "\x1b" not in text
    assert len(text) < 500


def tls_registry(tmp_path: Path) -> HostileRegistry:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{tmp_path}/key.pem",
         "-out", f"{tmp_path}/cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{tmp_path}/cert.pem", f"{tmp_path}/key.pem")
    return HostileRegistry(tls=context)


def trust(stand: Stand, registry: HostileRegistry, *, scheme: str = "https", ca: str = "", more: str = "") -> None:
    directory = stand.root / "certs.d" / registry.host
    directory.mkdir(parents=True)
    text = f'server = "{scheme}://{registry.host}"\n' + (f'ca = "{ca}"\n' if ca else "") + more
    (directory / "hosts.toml").write_text(text)


def test_unknown_certificate(stand: Stand, tmp_path: Path) -> None:
    registry = tls_registry(tmp_path)
    try:
        trust(stand, registry)
        with pytest.raises(FailedPrecondition, match="does not verify: self-signed certificate") as e:
            stand.pull(registry.add(IMAGE))
        assert "hosts.toml" in (e.value.hint or "")
    finally:
        registry.close()


def test_no_fallback_to_plain_http(stand: Stand, hostile: HostileRegistry) -> None:
    trust(stand, hostile, scheme="https")
    with pytest.raises(FailedPrecondition, match="it speaks plain HTTP") as e:
        stand.pull(hostile.add(IMAGE), credentials=USER)
    assert f'server = "http://{hostile.host}"' in (e.value.hint or "")
    assert hostile.seen == []


def test_layer_in_another_format_than_it_says(stand: Stand, hostile: HostileRegistry) -> None:
    image = images.Image([images.make_tar({"f": b"1"})])
    image.blobs = [gzip.compress(image.tars[0])[:-8] + bytes(8)]
    manifest = json.loads(image.manifest)
    manifest["layers"] = [manifest["layers"][0] | {"digest": digest(image.blobs[0]), "size": len(image.blobs[0])}]
    image.manifest = json.dumps(manifest).encode()
    with pytest.raises(DataLoss):
        stand.pull(hostile.add(image))
