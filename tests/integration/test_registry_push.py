# SPDX-License-Identifier: Apache-2.0
"""Pushing to a real docker-registry, with and without a login, and to one that fails half way."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from harness import images
from harness.registry import Registry as DockerRegistry
from integration.hostile_registry import Answer, HostileRegistry
from integration.layers_only import Stand
from wharfie.errdefs import InvalidArgument, NotFound, Unauthenticated
from wharfie.registry import Credentials
from wharfie.spec.platform import parse_platform
from wharfie.spec.reference import parse_reference
from wharfie.transfer import Progress
from wharfie.transfer.push import Pusher

# htpasswd -nbB user secret
HTPASSWD = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"
USER = Credentials("user", "secret")
IMAGE = images.Image([images.make_tar({f"f{n}": os.urandom(300_000)}) for n in range(3)])


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    s = Stand(tmp_path)
    yield s
    s.close()


@pytest.fixture
def hostile() -> Iterator[HostileRegistry]:
    r = HostileRegistry()
    yield r
    r.close()


@pytest.fixture(scope="module")
def private() -> Iterator[DockerRegistry]:
    need("docker-registry")
    r = DockerRegistry(htpasswd=HTPASSWD)
    yield r
    r.close()


def push(stand: Stand, ref: str, events: list[Progress] | None = None, **more: object) -> str:
    pusher = Pusher(stand.registry, stand.content)
    done = pusher.push(parse_reference(ref), stand.records, progress=(events or []).append, **more)  # type: ignore[arg-type]
    return done.digest


def rename(stand: Stand, old: str, new: str) -> None:
    stand.records.put(new, stand.records.get(old).target)


@pytest.mark.peer
def test_push_then_pull_is_the_same_image(stand: Stand, registry: DockerRegistry, tmp_path: Path) -> None:
    source = IMAGE.push(registry.host, "push/source")
    stand.pull(source)
    target = f"{registry.host}/push/copy:v1"
    rename(stand, source, target)
    events: list[Progress] = []
    Pusher(stand.registry, stand.content).push(parse_reference(target), stand.records, progress=events.append)
    assert {e.phase for e in events} == {"preparing", "mounted", "done"}
    assert {e.detail for e in events if e.phase == "mounted"} == {"push/source"}
    other = Stand(tmp_path / "other")
    assert other.pull(target).record.target.digest == IMAGE.digest
    other.close()
    events.clear()
    Pusher(stand.registry, stand.content).push(parse_reference(target), stand.records, progress=events.append)
    assert {e.phase for e in events} == {"preparing", "exists", "done"}


@pytest.mark.peer
def test_upload_with_login(stand: Stand, registry: DockerRegistry, private: DockerRegistry) -> None:
    source = IMAGE.push(registry.host, "push/source")
    stand.pull(source)
    target = f"{private.host}/push/copy:v1"
    rename(stand, source, target)
    with pytest.raises(Unauthenticated, match="wants a login") as e:
        push(stand, target)
    assert e.value.hint == f"run: wharfie login {private.host}"
    with pytest.raises(Unauthenticated, match="does not accept the login of 'user'"):
        push(stand, target, credentials=Credentials("user", "wrong"))
    assert push(stand, target, credentials=USER) == IMAGE.digest
    with pytest.raises(Unauthenticated, match="no such image, or wants a login"):
        stand.pull(target)
    assert stand.pull(target, credentials=USER).record.target.digest == IMAGE.digest


@pytest.mark.peer
def test_login(stand: Stand, private: DockerRegistry, registry: DockerRegistry) -> None:
    assert stand.registry.login(private.host, USER).status == "Login Succeeded"
    with pytest.raises(Unauthenticated, match="wrong user name or password"):
        stand.registry.login(private.host, Credentials("user", "no"))
    assert stand.registry.login(registry.host, USER).status == "Login Succeeded"


@pytest.mark.peer
def test_skopeo_and_podman_read_what_we_pushed(stand: Stand, registry: DockerRegistry, tmp_path: Path) -> None:
    need("skopeo")
    source = IMAGE.push(registry.host, "push/source")
    stand.pull(source)
    target = f"{registry.host}/push/peers:v1"
    rename(stand, source, target)
    push(stand, target)
    shown = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{target}"], capture_output=True, check=True
    ).stdout
    assert images.digest(shown) == IMAGE.digest
    copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{target}", f"dir:{tmp_path}/dir"]
    subprocess.run(copy, check=True, capture_output=True)


@pytest.mark.peer
def test_manifest_lists_go_whole_or_by_platform(stand: Stand, registry: DockerRegistry) -> None:
    made = {
        p: images.Image([images.make_tar({p.replace("/", "-"): b"x"})], platform=p)
        for p in ("linux/amd64", "linux/arm64")
    }
    entries = []
    for platform, image in made.items():
        image.push(registry.host, "push/list", platform.replace("/", "-"))
        os_, arch = platform.split("/")
        entries.append({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.digest,
            "size": len(image.manifest), "platform": {"os": os_, "architecture": arch},
        })  # fmt: skip
    media_type = "application/vnd.oci.image.index.v1+json"
    data = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()
    images.put_manifest(registry.host, "push/list", "all", data, media_type)
    source, target = f"{registry.host}/push/list:all", f"{registry.host}/push/copied:all"
    stand.pull(source, platform=parse_platform("linux/amd64"))
    rename(stand, source, target)
    assert push(stand, target) == made["linux/amd64"].digest  # the other platform is not here
    stand.pull(source, platform=parse_platform("linux/arm64"))
    assert push(stand, target) == images.digest(data)
    assert push(stand, target, platform=parse_platform("linux/arm64")) == made["linux/arm64"].digest
    with pytest.raises(NotFound, match="no image for linux/386"):
        push(stand, target, platform=parse_platform("linux/386"))


def test_push_of_what_is_not_here(stand: Stand) -> None:
    with pytest.raises(NotFound, match="does not exist locally"):
        push(stand, "localhost:1/x:latest")
    with pytest.raises(InvalidArgument):
        push(stand, f"localhost:1/x@{IMAGE.digest}")


class Uploads:
    """The push side of a registry, with a way to fail."""

    def __init__(self, hostile: HostileRegistry) -> None:
        self.hostile = hostile
        self.fail_first = 0
        self.limit = 1 << 40
        self.sessions: dict[str, bytes] = {}
        hostile.rule("POST", "/v2/", self.begin)
        hostile.rule("PATCH", "/up/", self.patch)
        hostile.rule("PUT", "/up/", self.finish)
        hostile.rule("PUT", "/v2/", self.manifest)

    def begin(self, a: Answer) -> None:
        name = f"/up/{len(self.sessions)}"
        self.sessions[name] = b""
        a.reply(202, Location=f"{name}?state=secret")

    def body(self, a: Answer) -> bytes:
        return a.rfile.read(int(a.headers["Content-Length"]))

    def patch(self, a: Answer) -> None:
        name = a.path.partition("?")[0]
        self.sessions[name] += self.body(a)
        a.reply(202, Location=a.path, Range=f"0-{len(self.sessions[name]) - 1}")

    def finish(self, a: Answer) -> None:
        if int(a.headers.get("Content-Length", 0)) > self.limit:
            self.body(a)
            a.reply(413, b"<html>too large</html>")
        elif self.fail_first:
            self.fail_first -= 1
            a.rfile.read1(1000)
            a.hang_up()
        else:
            data = self.sessions[a.path.partition("?")[0]] + self.body(a)
            self.hostile.blobs[images.digest(data)] = data
            a.reply(201, Docker_Content_Digest=images.digest(data))

    def manifest(self, a: Answer) -> None:
        data = self.body(a)
        self.hostile.add_manifest(data, a.headers["Content-Type"], a.path.rpartition("/")[2])
        a.reply(201, Docker_Content_Digest=images.digest(data))


@pytest.mark.parametrize("trouble", ["dropped", "narrow"])
def test_upload_that_breaks_off_begins_again_or_goes_in_pieces(
    stand: Stand, hostile: HostileRegistry, trouble: str
) -> None:
    image = images.Image([images.make_tar({"big": os.urandom(17 << 20)})])
    source = hostile.add(image)
    stand.pull(source)
    target = f"{hostile.host}/copy/of:it"
    rename(stand, source, target)
    hostile.blobs.clear()
    uploads = Uploads(hostile)
    if trouble == "dropped":
        uploads.fail_first = 1
    else:
        uploads.limit = 16 << 20
    assert push(stand, target) == image.digest
    assert set(hostile.blobs) == {images.digest(image.blobs[0]), images.digest(image.config_blob)}
    assert bool(hostile.asked("PATCH", "/up/")) == (trouble == "narrow")


@pytest.mark.peer
def test_registry_holds_what_was_pushed_byte_for_byte(stand: Stand, registry: DockerRegistry) -> None:
    source = IMAGE.push(registry.host, "push/source")
    stand.pull(source)
    target = f"{registry.host}/bytes/x:1"
    rename(stand, source, target)
    push(stand, target)
    with urllib.request.urlopen(f"http://{registry.host}/v2/bytes/x/blobs/{images.digest(IMAGE.blobs[1])}") as answer:
        assert answer.read() == IMAGE.blobs[1]
