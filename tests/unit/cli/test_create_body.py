# SPDX-License-Identifier: Apache-2.0
"""From `run` flags to the document that the engine reads. What docker sends for the same words: tests/cli/test_same.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from wharfie.cli.command import UsageError
from wharfie.cli.container.body import create_body, needs_api
from wharfie.cli.container.flags import RUN_FLAGS
from wharfie.cli.container.mounts import fields_of, mount, volume
from wharfie.cli.container.network import publish
from wharfie.cli.flags import parse
from wharfie.errdefs import InvalidArgument, WharfieError


def body(*words: str) -> dict[str, Any]:
    options, _ = parse(RUN_FLAGS, list(words))
    return create_body(options, "img", [])


def host(*words: str) -> dict[str, Any]:
    result: dict[str, Any] = body(*words)["HostConfig"]
    return result


def test_nothing_asked_nothing_sent() -> None:
    assert body() == {
        "Image": "img",
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {},
    }
    assert body("-d") == {"Image": "img", "HostConfig": {}}


def test_streams() -> None:
    assert body("-it") == {
        "Image": "img", "Tty": True, "OpenStdin": True, "StdinOnce": True, "AttachStdin": True, "AttachStdout": True,
        "AttachStderr": True, "HostConfig": {},
    }  # fmt: skip
    assert body("-i", "-a", "stdout")["AttachStdin"] is False
    assert body("-i", "-a", "stdout")["StdinOnce"] is False
    assert body("-id")["OpenStdin"] is True
    for words in (("-a", "x"), ("-a", "stdin", "-d")):
        with pytest.raises(InvalidArgument):
            body(*words)


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("NOT_HERE", raising=False)
    file = tmp_path / "env"
    file.write_text("\ufeff# comment\n\n  A=1 \nHERE\nNOT_HERE\nB=x=y\r\n")
    assert body("--env-file", str(file), "-e", "A=2", "-e", "HERE", "-e", "NOT_HERE", "-e", "E=")["Env"] == [
        "A=1 ", "HERE=yes", "B=x=y", "A=2", "HERE=yes", "NOT_HERE", "E=",
    ]  # fmt: skip
    file.write_text("bad name=1\n")
    for words in (("--env-file", str(file)), ("--env-file", "/nosuch"), ("-e", "=x"), ("-e", "")):
        with pytest.raises(InvalidArgument):
            body(*words)
    file.write_bytes(b"A=\xff\n")
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        body("--env-file", str(file))


def test_entrypoint_can_be_emptied() -> None:
    assert body("--entrypoint", "")["Entrypoint"] == [""]
    assert body("--entrypoint", "/bin/sh")["Entrypoint"] == ["/bin/sh"]


def test_limits() -> None:
    assert host("-m", "64m", "--memory-swap", "-1", "--cpus", "1.5", "--pids-limit", "9", "--ulimit", "nofile=5", "--init") == {
        "Memory": 64 << 20, "MemorySwap": -1, "NanoCpus": 1500000000, "PidsLimit": 9, "Init": True,
        "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 5}],
    }  # fmt: skip


def test_restart() -> None:
    assert host("--restart", "on-failure:3")["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    for words in (
        ("--restart", "x"),
        ("--restart", "always:3"),
        ("--restart", "on-failure:x"),
        ("--rm", "--restart", "always"),
    ):
        with pytest.raises(InvalidArgument):
            body(*words)
    assert host("--rm", "--restart", "no")["AutoRemove"] is True


def test_devices() -> None:
    assert host(
        "--device", "/dev/a", "--device", "/dev/a:/dev/b", "--device", "/dev/a:r", "--device", "/dev/a:/dev/b:rw"
    ) == {
        "Devices": [
            {"PathOnHost": "/dev/a", "PathInContainer": "/dev/a", "CgroupPermissions": "rwm"},
            {"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "rwm"},
            {"PathOnHost": "/dev/a", "PathInContainer": "/dev/a", "CgroupPermissions": "r"},
            {"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "rw"},
        ]
    }
    assert host("--device", "v.com/c=d")["DeviceRequests"] == [{"Driver": "cdi", "DeviceIDs": ["v.com/c=d"]}]
    for bad in ("", "/dev/a:", "/dev/a:b", "/dev/a:/dev/b:x", "/a:/b:r:w"):
        with pytest.raises(InvalidArgument):
            body("--device", bad)


def test_security(tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    profile.write_text('{ "defaultAction": "SCMP_ACT_ALLOW" }')
    assert host("--security-opt", f"seccomp={profile}", "--security-opt", "no-new-privileges")["SecurityOpt"] == [
        'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}', "no-new-privileges",
    ]  # fmt: skip
    assert host("--security-opt", "systempaths=unconfined") == {"MaskedPaths": [], "ReadonlyPaths": []}
    profile.write_text("{")
    for bad in (f"seccomp={profile}", "seccomp=/nosuch", "bogus"):
        with pytest.raises(InvalidArgument):
            body("--security-opt", bad)


def test_health() -> None:
    assert body("--health-cmd", "true", "--health-interval", "5s", "--health-retries", "2")["Healthcheck"] == {
        "Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9, "Retries": 2,
    }  # fmt: skip
    assert body("--no-healthcheck")["Healthcheck"] == {"Test": ["NONE"]}
    with pytest.raises(InvalidArgument):
        body("--no-healthcheck", "--health-cmd", "x")


@pytest.mark.parametrize(
    "words",
    [
        ("--gpus", "all"), ("--pull", "x"), ("--cgroupns", "x"), ("--uts", "x"), ("--pid", "x"), ("--pid", "container:"),
        ("--memory-swappiness", "101"), ("--oom-score-adj", "2000"), ("--cidfile", "/etc/passwd"), ("--sysctl", "x"),
        ("--log-opt", "x"), ("--log-driver", "none", "--log-opt", "a=b"), ("--disable-content-trust=false",), ("--network", ""),
        ("--network", "a", "--network", "host"), ("--network", "a", "--network", "a"), ("--network", "nope=1"),
        ("--add-host", "x"), ("--add-host", "x:y"), ("-p", "x"), ("--expose", "1:2"), ("--tmpfs", "x"), ("-v", "a:b:c:d"), ("-v", "a::c"),
    ],
)  # fmt: skip
def test_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(WharfieError):
        body(*words)


def test_volumes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    made = body("-v", "/a:/b:ro", "-v", "vol:/c", "-v", "/anon", "-v", "./x:/d", "--tmpfs", "/t:size=1m")
    assert made["Volumes"] == {"/anon": {}}
    assert made["HostConfig"] == {
        "Binds": ["/a:/b:ro", "vol:/c", f"{os.getcwd()}/x:/d"], "Tmpfs": {"/t": "size=1m"},
    }  # fmt: skip
    assert volume(r"C:\a:C:\b:ro")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("target=/a", {"Type": "volume", "Target": "/a"}),
        ("type=bind,src=/s,dst=/d,ro", {"Type": "bind", "Source": "/s", "Target": "/d", "ReadOnly": True}),
        ("type=bind,source=/s,target=/d,readonly=false", {"Type": "bind", "Source": "/s", "Target": "/d", "ReadOnly": False}),
        (
            "type=bind,src=/s,dst=/d,bind-propagation=rshared",
            {"Type": "bind", "Source": "/s", "Target": "/d", "BindOptions": {"Propagation": "rshared"}},
        ),
        (
            'type=volume,src=v,dst=/d,volume-nocopy,volume-driver=local,"volume-opt=o=a,b",volume-label=k=v',
            {
                "Type": "volume", "Source": "v", "Target": "/d",
                "VolumeOptions": {"NoCopy": True, "DriverConfig": {"Name": "local", "Options": {"o": "a,b"}}, "Labels": {"k": "v"}},
            },
        ),
        (
            "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777",
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777}},
        ),
    ],
)  # fmt: skip
def test_mount(text: str, expected: dict[str, Any]) -> None:
    assert mount(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "type=bind,dst=/d", "type=nope,dst=/d", "src=/s", "dst=/d,foo=bar", "type=bind,src=/s,dst=/d,volume-nocopy",
        "type=tmpfs,src=x,dst=/d", "type=bind,src=/s,dst=/d,bind-propagation=x", "dst=/d,ro=maybe", "type=tmpfs,dst=/d,tmpfs-mode=9",
        "type=bind,src=/s,dst=/d,bind-recursive=readonly", '"dst=/d',
    ],
)  # fmt: skip
def test_bad_mount(text: str) -> None:
    with pytest.raises(UsageError, match="--mount"):
        body("--mount", text)


def test_quoted_fields() -> None:
    assert fields_of('a,"b,c","d""e",') == ["a", "b,c", 'd"e', ""]
    with pytest.raises(ValueError, match="after a closed quote"):
        fields_of('"a"b')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [("80/tcp", "", "")]),
        ("8080:80", [("80/tcp", "", "8080")]),
        ("127.0.0.1:8080:80/udp", [("80/udp", "127.0.0.1", "8080")]),
        ("127.0.0.1::80", [("80/tcp", "127.0.0.1", "")]),
        ("[::1]:8080:80", [("80/tcp", "::1", "8080")]),
        ("8000-8001:80-81", [("80/tcp", "", "8000"), ("81/tcp", "", "8001")]),
        ("8000-8009:80", [("80/tcp", "", "8000-8009")]),
        ("target=80,published=8080,protocol=udp", [("80/udp", "", "8080")]),
    ],
)
def test_publish(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert [(p, b["HostIp"], b["HostPort"]) for p, b in publish(text)] == expected


@pytest.mark.parametrize(
    "text", ["", "x:80", "80:", "0:0", "70000", "1-3:1-2", "3-1", "80/x", "300.1.1.1:1:1", "[::1:1:1"]
)
def test_bad_publish(text: str) -> None:
    with pytest.raises(InvalidArgument):
        publish(text)


def test_networks() -> None:
    made = body("--network", "name=n,alias=a,ip=10.0.0.2", "--network-alias", "b")
    assert made["HostConfig"]["NetworkMode"] == "n"
    endpoint = {"Aliases": ["a", "b"], "IPAMConfig": {"IPv4Address": "10.0.0.2"}}
    assert made["NetworkingConfig"] == {"EndpointsConfig": {"n": endpoint}}
    assert host("--network", "none") == {"NetworkMode": "none"}
    assert host("--add-host", "a:1.2.3.4", "--add-host", "b=[::1]")["ExtraHosts"] == ["a:1.2.3.4", "b:::1"]


def test_flags_that_old_engines_would_ignore() -> None:
    assert needs_api(parse(RUN_FLAGS, ["--rm"])[0]) == 0
    assert needs_api(parse(RUN_FLAGS, ["--annotation", "a=b"])[0]) == 43
