# SPDX-License-Identifier: Apache-2.0
"""decisions 11: who shares whose user namespace, and which wishes contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from wharfie.errdefs import FailedPrecondition, InvalidArgument
from wharfie.oci.facts import HostFacts
from wharfie.oci.namespaces import check_modes, namespaces, userns_choice
from wharfie.spec.docker import HostConfig

HOST = HostFacts()
OLD = HostFacts(userns="kernel 5.10 cannot")


def choice(h: dict[str, Any], host: HostFacts = HOST, owner: bool | None = None) -> tuple[str, str]:
    found = userns_choice(HostConfig(**h), host, owner_has_userns=owner)
    assert found.reason or found.mode == "own"
    return found.mode, found.owner


@pytest.mark.parametrize(
    ("h", "owner", "wanted"),
    [
        ({}, None, ("own", "")),
        ({"userns_mode": "auto"}, None, ("own", "")),
        ({"userns_mode": "host"}, None, ("host", "")),
        ({"network_mode": "none", "ipc_mode": "shareable", "cgroupns_mode": "host"}, None, ("own", "")),
        ({"privileged": True}, None, ("host", "")),
        ({"network_mode": "host"}, None, ("host", "")),
        ({"pid_mode": "host"}, None, ("host", "")),
        ({"ipc_mode": "host"}, None, ("host", "")),
        ({"uts_mode": "host"}, None, ("host", "")),
        ({"network_mode": "container:x"}, None, ("container", "x")),
        (
            {"network_mode": "container:x", "pid_mode": "container:x", "ipc_mode": "container:x"},
            True,
            ("container", "x"),
        ),
        ({"network_mode": "container:x"}, False, ("host", "")),
        ({"network_mode": "container:x", "userns_mode": "host"}, False, ("host", "")),
        ({"network_mode": "container:x", "pid_mode": "host"}, False, ("host", "")),
        ({"network_mode": "container:x", "pid_mode": "host"}, None, ("container", "x")),
    ],
)
def test_choice(h: dict[str, Any], owner: bool | None, wanted: tuple[str, str]) -> None:
    assert choice(h, owner=owner) == wanted


@pytest.mark.parametrize(
    ("h", "owner"),
    [
        ({"userns_mode": "auto", "privileged": True}, None),
        ({"userns_mode": "auto", "network_mode": "host"}, None),
        ({"userns_mode": "auto", "network_mode": "container:x"}, None),
        ({"network_mode": "container:x", "pid_mode": "container:y"}, None),
        ({"network_mode": "container:x", "userns_mode": "host"}, True),
        ({"network_mode": "container:x", "privileged": True}, True),
        ({"ipc_mode": "container:x", "pid_mode": "host"}, True),
    ],
)
def test_contradictions(h: dict[str, Any], owner: bool | None) -> None:
    with pytest.raises(InvalidArgument) as e:
        choice(h, owner=owner)
    assert e.value.hint


def test_hosts_that_cannot() -> None:
    assert userns_choice(HostConfig(), OLD).reason == OLD.userns
    with pytest.raises(FailedPrecondition, match=r"5\.10"):
        choice({"userns_mode": "auto"}, OLD)


@pytest.mark.parametrize(
    "h",
    [{"pid_mode": "container:"}, {"pid_mode": "shareable"}, {"ipc_mode": "x"}, {"uts_mode": "container:x"},
     {"cgroupns_mode": "none"}, {"userns_mode": "keep-id"}, {"network_mode": "container:"}],
)  # fmt: skip
def test_unknown_modes(h: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument):
        check_modes(HostConfig(**h))  # type: ignore[arg-type]


def spaces(h: dict[str, Any], join: dict[str, str], *, own: bool = False) -> dict[str, str]:
    return {n.type: n.path for n in namespaces(HostConfig(**h), join, own_userns=own)}


def test_documents() -> None:
    all_own = {"mount": "", "network": "", "pid": "", "ipc": "", "uts": "", "cgroup": ""}
    assert spaces({}, {}) == all_own
    assert spaces({}, {}, own=True) == {**all_own, "user": ""}
    assert spaces(
        {"network_mode": "host", "pid_mode": "host", "ipc_mode": "host", "uts_mode": "host", "cgroupns_mode": "host"},
        {},
    ) == {"mount": ""}
    joined = {"network": "/proc/7/ns/net", "user": "/proc/7/ns/user"}
    assert spaces({"network_mode": "container:x"}, joined) == {**all_own, **joined}
    assert spaces({}, {"network": "/run/netns/a"})["network"] == "/run/netns/a"


def test_a_joined_namespace_needs_its_path() -> None:
    with pytest.raises(InvalidArgument):
        spaces({"pid_mode": "container:x"}, {})
