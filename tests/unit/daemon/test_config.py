# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from wharfie.daemon import config
from wharfie.daemon.main import build_config, parse_flags
from wharfie.errdefs import FailedPrecondition, InvalidArgument, NotFound
from wharfie.oci.facts import HostFacts


def test_the_default_text_is_a_configuration_with_the_defaults() -> None:
    assert config.parse(config.default_text(), "default") == config.Config()


def test_an_unknown_key_names_file_line_and_neighbour() -> None:
    with pytest.raises(InvalidArgument) as e:
        config.parse('root = "/x"\n# words\nsnapshoter = "erofs"\n', "/etc/w.toml")
    assert "/etc/w.toml:3" in e.value.message
    assert "'snapshoter'" in e.value.message
    assert e.value.hint == "did you mean 'snapshotter'?"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("root = 5", "root"),
        ("stop_timeout = 'long'", "stop_timeout"),
        ('root = "relative"', "absolute"),
        ('log_level = "loud"', "loud"),
        ('userns = "maybe"', "maybe"),
        ("userns_range = [0, 65536]", "userns_range"),
        ("userns_range = [4294900000, 131072]", "last id"),
        ("userns_range = [100000]", "userns_range"),
        ('cgroup_parent = "x"', "cgroup_parent"),
        ('cgroup_driver = "runc"', "cgroup_driver"),
        ('cgroup_driver = "systemd"\ncgroup_parent = "/x"', "cgroup_parent"),
        ("a = ", "c.toml"),
    ],
)
def test_bad_values_are_named(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        config.parse(text, "c.toml")


@pytest.mark.parametrize(
    ("text", "systemd", "version", "driver"),
    [
        ("", True, 2, "systemd"),
        ("", True, 1, "cgroupfs"),
        ("", False, 2, "cgroupfs"),
        ('cgroup_parent = "/mine"', True, 2, "cgroupfs"),
        ('cgroup_parent = "my.slice"', True, 2, "systemd"),
        ('cgroup_driver = "cgroupfs"', True, 2, "cgroupfs"),
        ('cgroup_driver = "systemd"', True, 1, "systemd"),
    ],
)
def test_cgroup_driver(text: str, systemd: bool, version: int, driver: str) -> None:
    host = HostFacts(systemd=systemd, cgroup_version=version)
    assert config.cgroup_driver(config.parse(text, "c.toml"), host) == driver


def test_systemd_driver_without_systemd() -> None:
    with pytest.raises(FailedPrecondition, match="cgroup_driver"):
        config.cgroup_driver(config.parse('cgroup_driver = "systemd"', "c.toml"), HostFacts(systemd=False))


def test_flags_go_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('root = "/from/file"\nlog_level = "warning"\nstop_timeout = 3\n')
    values, switches, words = parse_flags(
        ["--config", str(path), "--root=/from/flag", "-D", "-H", "unix:///a", "-H", "unix:///b"]
    )
    found = build_config(values, switches)
    assert (found.root, found.log_level, found.stop_timeout) == ("/from/flag", "debug", 3)
    assert found.addresses() == ["unix:///a", "unix:///b"]
    assert words == []


def test_bad_flags() -> None:
    with pytest.raises(InvalidArgument) as e:
        parse_flags(["--rot", "x"])
    assert e.value.hint == "did you mean --root?"
    with pytest.raises(InvalidArgument, match="--root needs a value"):
        parse_flags(["--root"])
    with pytest.raises(NotFound, match="/nowhere/c"):
        config.load("/nowhere/c.toml")
