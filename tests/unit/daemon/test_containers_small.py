# SPDX-License-Identifier: Apache-2.0
"""Ids, names, generated files, mount sources, `ps` words, --init's bytes: what needs no engine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from wharfie.daemon.api.containers_streams import detach_keys
from wharfie.daemon.services import bundle, top
from wharfie.daemon.services.ids import check_name, new_id, random_name
from wharfie.daemon.services.mount_sources import bind_source, can_idmap, volume_subpath
from wharfie.daemon.services.times import ago, rfc3339
from wharfie.errdefs import InvalidArgument
from wharfie.oci.mounts import MountRequest
from wharfie.spec.docker import HostConfig


def test_names() -> None:
    assert check_name("/a.b_c-1") == "a.b_c-1"
    assert check_name("x") == "x"
    for bad in ("", "-a", "a/b", "a b", "ä", "a\n", ".a", "a" * 256):
        with pytest.raises(InvalidArgument, match="invalid container name"):
            check_name(bad)
    taken: set[str] = set()
    for _ in range(3000):
        name = random_name(taken.__contains__)
        assert check_name(name) == name
        assert name not in taken
        taken.add(name)
    assert len(new_id()) == 64


def test_hosts_file() -> None:
    text = bundle.hosts_file("box", "example.org", ["other:10.1.2.3", "six=[fd00::1]"]).decode()
    assert "127.0.0.1\tlocalhost\n" in text
    assert "10.1.2.3\tother\n" in text
    assert "fd00::1\tsix\n" in text
    assert "box.example.org box" in text


def test_resolv_conf_of_the_request_wins_and_loopback_servers_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        bundle, "_host_resolv", lambda: ["nameserver 127.0.0.1", "nameserver 10.0.0.2", "search a b", "options ndots:2"]
    )
    assert bundle.resolv_conf(HostConfig(), host_network=False) == b"nameserver 10.0.0.2\nsearch a b\noptions ndots:2\n"
    assert b"127.0.0.1" in bundle.resolv_conf(HostConfig(), host_network=True)
    own = HostConfig(dns=["9.9.9.9"], dns_search=["."], dns_options=["edns0"])
    assert bundle.resolv_conf(own, host_network=False) == b"nameserver 9.9.9.9\noptions edns0\n"


def test_a_bundle_appears_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "ns" / "id")
    files = bundle.Files(b"h\n", b"hosts", b"r")
    bundle.write(path, files, b"{}")
    assert sorted(os.listdir(path)) == ["config.json", "hostname", "hosts", "log", "resolv.conf"]
    assert os.stat(path).st_mode & 0o7777 == 0o710
    assert bundle.exists(path)
    assert bundle.read_exit(path) is None
    (tmp_path / "ns/id/exit.json").write_text('{"exit_status":9,"exited_at_s":1.5,"oom":true,"pid":4,"more":1}')
    record = bundle.read_exit(path)
    assert record is not None
    assert (record.exit_status, record.oom) == (9, True)
    bundle.forget_exit(path)
    bundle.forget_exit(path)
    assert bundle.read_exit(path) is None
    bundle.remove(path)
    bundle.remove(path)
    assert os.listdir(tmp_path / "ns") == []


def test_bind_sources(tmp_path: Path) -> None:
    missing = str(tmp_path / "a/b")
    with pytest.raises(InvalidArgument, match=missing):
        bind_source(MountRequest("bind", missing, "/m"))
    assert bind_source(MountRequest("bind", missing, "/m", create_source=True))[0] == missing
    assert Path(missing).is_dir()
    assert not can_idmap("/proc")
    assert can_idmap("/dev/shm")
    assert not can_idmap("/", recursive=True), "/proc is below"


def test_a_volume_subpath_follows_nothing(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "out").symlink_to("/etc")
    assert volume_subpath("v", str(tmp_path), "a/b") == f"{tmp_path}/a/b"
    for bad in ("out", "out/passwd", "../x", "a/../..", "none"):
        with pytest.raises(InvalidArgument, match="subpath"):
            volume_subpath("v", str(tmp_path), bad)


def test_detach_keys() -> None:
    assert detach_keys(None) == b"\x10\x11"
    assert detach_keys("ctrl-a,x,ctrl-]") == b"\x01x\x1d"
    with pytest.raises(InvalidArgument, match="ctrl-1"):
        detach_keys("ctrl-1")


def test_times() -> None:
    assert rfc3339(0) == "0001-01-01T00:00:00Z"
    assert rfc3339(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"
    assert [ago(s) for s in (0.5, 1, 59, 60, 3000, 3600, 7300, 86400 * 3)] == [
        "Less than a second", "1 second", "59 seconds", "About a minute", "About an hour", "About an hour", "2 hours", "3 days",
    ]  # fmt: skip


def test_top_reads_proc_by_the_words_of_ps() -> None:
    process = subprocess.Popen(["cat", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"up\n")
    assert process.stdout.readline() == b"up\n"
    try:
        found = top.top([process.pid, 2**22 + 1], "-o pid,ppid,comm,args,user")
        assert found["Titles"] == ["PID", "PPID", "COMMAND", "COMMAND", "USER"]
        assert found["Processes"] == [[str(process.pid), str(os.getpid()), "cat", "cat -", "root"]]
        assert top.top([process.pid], "")["Titles"] == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        assert "%CPU" in top.top([process.pid], "aux")["Titles"]
        uid = os.geteuid()
        assert top.top([process.pid], "-eo pid,uid", [(7, uid, 1)])["Processes"][0][1] == "7"
    finally:
        process.communicate()
    with pytest.raises(InvalidArgument, match="PID"):
        top.top([], "-o comm")
    with pytest.raises(InvalidArgument, match="nosuch"):
        top.top([], "-o pid,nosuch")
    with pytest.raises(InvalidArgument):
        top.top([], "--help")
