# SPDX-License-Identifier: Apache-2.0
"""Bad input: an error that names operation, object, cause and fix, the right exit code, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness import images
from harness.engine import WHARFIE, WHARFIED, Engine
from harness.registry import Registry, free_port

pytestmark = [pytest.mark.root]


def fails(engine: Engine, *args: str, code: int, says: list[str]) -> str:
    done = engine.run(*args, check=False)
    text = done.stderr.decode()
    assert done.returncode == code, f"exit {done.returncode}: {text}"
    for word in says:
        assert word in text, text
    assert "Traceback" not in text
    return text


def test_unknown_image(engine: Engine, registry: Registry) -> None:
    fails(engine, "run", f"{registry.host}/nothing/here:1", "true", code=125, says=["nothing/here"])
    fails(engine, "pull", f"{registry.host}/nothing/here:1", code=1, says=["nothing/here"])


def test_wrong_platform(engine: Engine, registry: Registry) -> None:
    ref = images.Image([images.busybox_tar()], platform="linux/s390x").push(registry.host, "other-arch")
    fails(engine, "pull", ref, code=1, says=["linux/amd64", "linux/s390x"])
    assert engine.out("images", "-q", ref) == ""


def test_dead_registry(engine: Engine) -> None:
    port = free_port()
    fails(engine, "pull", f"127.0.0.1:{port}/x", code=1, says=[str(port), "refused"])


def test_unauthorized(engine: Engine) -> None:
    # The bcrypt hash of "secret".
    protected = Registry(htpasswd="me:$2y$05$JgyZ2pSgBqMgFGCVv2nXYuMjN/rRCNtXMjAB7wiN2pWUDE8zM6A9y")
    try:
        text = fails(engine, "pull", f"{protected.host}/x", code=1, says=[protected.host])
        assert "login" in text
    finally:
        protected.close()


def test_corrupt_blob(engine: Engine, registry: Registry) -> None:
    image = images.Image([images.make_tar({"f": os.urandom(100_000)})])
    ref = image.push(registry.host, "corrupt")
    hexdigest = images.digest(image.blobs[0]).split(":")[1]
    data = registry.root / f"data/docker/registry/v2/blobs/sha256/{hexdigest[:2]}/{hexdigest}/data"
    blob = bytearray(data.read_bytes())
    blob[-20] ^= 1
    data.write_bytes(blob)
    before = _blobs(engine)
    fails(engine, "pull", ref, code=1, says=[hexdigest[:12]])
    assert engine.out("images", "-q", ref) == ""
    assert not [b for b in _blobs(engine) - before if hexdigest in b]


def test_truncated_blob(engine: Engine, registry: Registry) -> None:
    image = images.Image([images.make_tar({"g": os.urandom(100_000)})])
    ref = image.push(registry.host, "truncated")
    hexdigest = images.digest(image.blobs[0]).split(":")[1]
    data = registry.root / f"data/docker/registry/v2/blobs/sha256/{hexdigest[:2]}/{hexdigest}/data"
    data.write_bytes(data.read_bytes()[:-1000])
    fails(engine, "pull", ref, code=1, says=[hexdigest[:12]])


def _blobs(engine: Engine) -> set[str]:
    return {p.name for p in (engine.root / "content/blobs/sha256").iterdir()}


def test_full_disk(registry: Registry, busybox: str) -> None:
    base = Path(tempfile.mkdtemp(prefix="wh-", dir="/var/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(base)], check=True)
    engine = None
    try:
        engine = Engine(base=base)
        big = images.Image([images.make_tar({"big": os.urandom(12 << 20)})]).push(registry.host, "big")
        fails(engine, "pull", big, code=1, says=["space"])
        assert engine.out("images", "-q") == ""
        engine.run("pull", busybox)
        assert engine.out("run", "--rm", busybox, "echo", "still works") == "still works"
        engine.run("rmi", busybox)
        engine.close()
    finally:
        if engine:
            engine.destroy()
        subprocess.run(["umount", "-l", str(base)], check=False)
        shutil.rmtree(base, ignore_errors=True)


def test_names(engine: Engine, busybox: str) -> None:
    fails(engine, "run", "--name", "b@d", busybox, "true", code=125, says=["b@d"])
    fails(engine, "run", "UPPER/Case", "true", code=125, says=["UPPER/Case"])
    engine.run("create", "--name", "twice", busybox)
    fails(engine, "create", "--name", "twice", busybox, code=1, says=["twice"])
    fails(engine, "start", "nothere", code=1, says=["nothere"])
    fails(engine, "inspect", "nothere", code=1, says=["nothere"])


def test_bad_mounts(engine: Engine, busybox: str) -> None:
    for flag in ("relative/path:/x", "/a:relative", "/a:/b:nosuchmode", "/:/"):
        done = engine.run("run", "--rm", "-v", flag, busybox, "true", check=False)
        assert done.returncode == 125, (flag, done.stderr)
        assert done.stderr
    fails(engine, "run", "--rm", "-v", "/tmp:/proc", busybox, "true", code=125, says=["/proc"])
    assert engine.out("ps", "-aq") == ""


def test_flags_that_cannot_work_are_errors(engine: Engine, busybox: str) -> None:
    fails(engine, "run", "--rm", "--nosuchflag", busybox, code=125, says=["--nosuchflag"])
    fails(engine, "run", "--rm", "--memory", "1x", busybox, "true", code=125, says=["1x"])
    fails(engine, "run", "--rm", "--isolation", "hyperv", busybox, "true", code=125, says=["hyperv"])
    assert engine.out("ps", "-aq") == ""


def test_missing_binary_leaves_nothing(engine: Engine, busybox: str) -> None:
    fails(engine, "run", "--rm", busybox, "/nope", code=127, says=["/nope"])
    assert engine.out("ps", "-aq") == ""


def test_no_permission_on_the_socket(engine: Engine) -> None:
    engine.base.chmod(0o755)
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", WHARFIE, "ps"], env=engine.env(), capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 1
    assert "permission denied" in done.stderr.lower()
    assert "wharfie.sock" in done.stderr or "group" in done.stderr


def test_nobody_answers() -> None:
    done = subprocess.run(
        [WHARFIE, "-H", "unix:///var/tmp/wh-no-such.sock", "ps"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "/var/tmp/wh-no-such.sock" in done.stderr


def test_unknown_config_key(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('cgroup_parnet = "/x"\n')
    done = subprocess.run(
        [WHARFIED, "--root", str(tmp_path / "r"), "--state", str(tmp_path / "s"), "--config", str(tmp_path / "c.toml")],
        capture_output=True, text=True, timeout=10, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cgroup_parnet" in done.stderr
    assert "cgroup_parent" in done.stderr, "the nearest key is named"
    assert str(tmp_path / "c.toml") in done.stderr


def test_two_daemons_on_one_root(engine: Engine, tmp_path: Path) -> None:
    done = subprocess.run(
        [WHARFIED, "--root", str(engine.root), "--state", str(tmp_path / "s")],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert done.returncode == 1
    assert str(engine.root) in done.stderr


def test_rubbish_on_the_socket(engine: Engine) -> None:
    for rubbish in (
        b"\0" * 100,
        b"GET /\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{",
    ):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(engine.socket))
            s.sendall(rubbish)
            s.settimeout(0.2)
            try:
                s.recv(100)
            except TimeoutError:
                pass
    status, body = engine.api("POST", "/containers/create", b"{not json")
    assert status == 400
    assert body["message"]
    assert engine.api("GET", "/_ping")[0] == 200
