# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wharfie.daemon.services.specgen import merge_config
from wharfie.errdefs import InvalidArgument, Unsupported, WharfieError
from wharfie.oci.mounts import MountRequest, parse_bind, parse_mounts, volumes_from
from wharfie.spec.docker import decode_create
from wharfie.spec.image import ContainerConfig


def parse(
    host: dict[str, Any] | None = None, *, image: ContainerConfig | None = None, **config: Any
) -> list[MountRequest]:
    body = decode_create(json.dumps({"Cmd": ["x"], **config, "HostConfig": host or {}}).encode())
    return parse_mounts(body, merge_config(image, body))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/a:/b", MountRequest("bind", "/a", "/b", create_source=True)),
        ("/a/../c/:/b/./d/", MountRequest("bind", "/c", "/b/d", create_source=True)),
        ("/a:/b:ro,Z,rshared", MountRequest("bind", "/a", "/b", readonly=True, label="Z", propagation="rshared", create_source=True)),
        ("/a:/b:cached,rw", MountRequest("bind", "/a", "/b", create_source=True)),
        ("vol:/b:nocopy", MountRequest("volume", "vol", "/b", nocopy=True)),
        ("/only", MountRequest("volume", "", "/only")),
        ("v:/../../etc", MountRequest("volume", "v", "/etc")),
    ],
)  # fmt: skip
def test_bind(text: str, wanted: MountRequest) -> None:
    assert parse_bind(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["", ":", "/a:", ":/b", "/a:b", "a/b:/c", ".:/c", "-v:/c", "/a:/b:ro:x", "/a:/b:bogus", "/a:/b:ro,rw", "/a:/b:z,Z",
     "/a:/b:shared,slave", "v:/b:shared", "/a:/b:nocopy", "/a:/", "/a:/..", "/a:/b\n", "v" * 256 + ":/b", "/a:/b:ro,,ro"],
)  # fmt: skip
def test_bad_binds(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_bind(text)


def test_propagation_injection() -> None:
    """CVE-2024-9407 and its kin: an option is one known word, not a way into mount(8)."""
    for word in ("suid", "dev", "idmap", "bind", "upperdir=/x", "private,rbind=1"):
        with pytest.raises(InvalidArgument):
            parse_bind(f"/a:/b:{word}")


@pytest.mark.parametrize(
    "target", ["/proc", "/proc/", "/proc/self/attr", "/./proc/1", "/proc/sys/kernel", "/x/../proc"]
)
@pytest.mark.parametrize("origin", ["image", "config", "volume", "bind", "tmpfs", "mount"])
def test_nothing_hides_proc(target: str, origin: str) -> None:
    """CVE-2019-16884."""
    with pytest.raises(InvalidArgument, match="/proc"):
        if origin == "image":
            parse(image=ContainerConfig(volumes={target: {}}))
        elif origin == "config":
            parse(Volumes={target: {}})
        elif origin == "volume":
            parse({"Binds": [f"v:{target}"]})
        elif origin == "bind":
            parse({"Binds": [f"/tmp:{target}"]})
        elif origin == "tmpfs":
            parse({"Tmpfs": {target: ""}})
        else:
            parse({"Mounts": [{"Type": "tmpfs", "Target": target}]})


def test_what_may_stand_in_proc() -> None:
    assert parse({"Binds": ["/var/lib/lxcfs/proc/meminfo:/proc/meminfo"]})[0].target == "/proc/meminfo"
    assert parse({"Binds": ["/proc:/proc", "/proc:/host/proc"]})
    assert parse({"Binds": ["/a:/procession"]})
    with pytest.raises(InvalidArgument):
        parse({"Binds": ["v:/proc/meminfo"]})


def test_hostile_volume_paths() -> None:
    """CVE-2022-23648: an image's VOLUME stays below the root; an empty one is refused."""
    assert parse(image=ContainerConfig(volumes={"/../../etc": {}}))[0].target == "/etc"
    assert parse(image=ContainerConfig(volumes={"../data": {}}))[0].target == "/data"
    for path in ("", "/", "..", "/a\x00b"):
        with pytest.raises(InvalidArgument):
            parse(image=ContainerConfig(volumes={path: {}}))


def test_order_and_precedence() -> None:
    found = parse(
        {"Binds": ["/h:/a/b", "vol:/a"]}, image=ContainerConfig(volumes={"/a/": {}, "/z": {}}), Volumes={"/c": {}}
    )
    assert [(m.target, m.type, m.source, m.origin) for m in found] == [
        ("/a", "volume", "vol", "binds"), ("/z", "volume", "", "image"), ("/c", "volume", "", "config"),
        ("/a/b", "bind", "/h", "binds"),
    ]  # fmt: skip


def test_two_mounts_on_one_path() -> None:
    with pytest.raises(InvalidArgument, match="same path"):
        parse({"Binds": ["/h:/a"], "Tmpfs": {"/a/": ""}})


def mount(**m: Any) -> MountRequest:
    return parse({"Mounts": [{"Target": "/t", **m}]})[0]


def test_mount_types() -> None:
    m = mount(Type="bind", Source="/s", ReadOnly=True, BindOptions={"NonRecursive": True, "Propagation": "slave"})
    assert (m.readonly, m.recursive, m.propagation, m.create_source) == (True, False, "slave", False)
    m = mount(
        Type="bind", Source="/s", ReadOnly=True, BindOptions={"ReadOnlyForceRecursive": True, "Propagation": "rprivate"}
    )
    assert m.recursive_readonly == "force"
    m = mount(Type="volume", VolumeOptions={"NoCopy": True, "Subpath": "a/b", "Labels": {"k": "v"},
                                            "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs"}}})  # fmt: skip
    assert (m.source, m.nocopy, m.subpath, m.labels, m.driver, m.driver_opts) == (
        "", True, "a/b", {"k": "v"}, "local", {"type": "tmpfs"},
    )  # fmt: skip
    m = mount(Type="tmpfs", TmpfsOptions={"SizeBytes": 4096, "Mode": 0o1777, "Options": [["uid", "5"], ["exec"]]})
    assert m.options == ("mode=1777", "size=4096", "uid=5", "exec")


@pytest.mark.parametrize(
    "m",
    [
        {"Type": "bind", "Source": "rel"}, {"Type": "bind"}, {"Type": "bnid", "Source": "/a"}, {"Source": "/a"},
        {"Type": "bind", "Source": "/a", "Target": "rel"}, {"Type": "tmpfs", "Source": "/a"},
        {"Type": "bind", "Source": "/a", "BindOptions": {"Propagation": "upward"}},
        {"Type": "bind", "Source": "/a", "Consistency": "sometimes"},
        {"Type": "bind", "Source": "/a", "VolumeOptions": {"NoCopy": True}},
        {"Type": "volume", "Source": "/a"}, {"Type": "volume", "BindOptions": {"Propagation": "slave"}},
        {"Type": "volume", "VolumeOptions": {"Subpath": "../x"}}, {"Type": "volume", "VolumeOptions": {"Subpath": "/x"}},
        {"Type": "tmpfs", "TmpfsOptions": {"SizeBytes": -1}}, {"Type": "tmpfs", "TmpfsOptions": {"Mode": 0o10000}},
        {"Type": "tmpfs", "TmpfsOptions": {"Options": [["context", "x"]]}},
        {"Type": "tmpfs", "TmpfsOptions": {"Options": [["a", "b", "c"]]}},
        {"Type": "bind", "Source": "/a", "BindOptions": {"ReadOnlyForceRecursive": True}},
        {"Type": "bind", "Source": "/a", "ReadOnly": True, "BindOptions": {"ReadOnlyForceRecursive": True}},
    ],
)  # fmt: skip
def test_bad_mounts(m: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        mount(**m)


@pytest.mark.parametrize("kind", ["image", "npipe", "cluster"])
def test_known_but_not_here(kind: str) -> None:
    with pytest.raises(Unsupported):
        mount(Type=kind, Source="x")


@pytest.mark.parametrize("options", ["bogus", "size=", "size", "uid=1,context=x", "mode=7,upperdir=/x"])
def test_bad_tmpfs_options(options: str) -> None:
    with pytest.raises(InvalidArgument):
        parse({"Tmpfs": {"/t": options}})


def test_volumes_from() -> None:
    assert volumes_from(["a", "b:ro", "c:rw,z"]) == [("a", False), ("b", True), ("c", False)]
    for text in ("", ":ro", "a:bogus", "a:ro:rw"):
        with pytest.raises(InvalidArgument):
            volumes_from([text])


@given(st.text(alphabet="/:.ab,roz~\n\0", max_size=20))
def test_targets_stay_absolute_and_clean(text: str) -> None:
    try:
        found = parse_bind(text)
    except WharfieError:
        return
    assert found.target.startswith("/")
    assert found.target != "/"
    assert ".." not in found.target.split("/")
