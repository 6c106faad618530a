# SPDX-License-Identifier: Apache-2.0
"""The spec of every `docker run` line in requests.json, held by golden files.

`specs.json` holds the plain one whole and, of each other, what differs from it: read its diff in review as what a change
does to users. WHARFIE_UPDATE_GOLDEN=1 writes it anew.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from golden import specdoc
from wharfie.oci.caps import ALL_CAPS
from wharfie.oci.facts import HostFacts
from wharfie.oci.seccomp import default_profile
from wharfie.spec.runtime import Spec, decode_spec, encode_spec

GOLDEN = specdoc.HERE / "specs.json"
HOST = HostFacts(
    capabilities=frozenset(ALL_CAPS), cgroup_version=1, cpus=2, cpu_list="0-1", mem_list="0",
    controllers=frozenset({"memory", "cpu", "cpuset", "pids", "blkio", "devices"}),
)  # fmt: skip


def summary(s: Spec) -> dict[str, Any]:
    """The flat spec, with the seccomp profile named instead of listed where it is the default one."""
    doc = specdoc.document(s)
    caps = frozenset((doc["process"].get("capabilities") or {}).get("bounding", []))
    assert s.linux
    if s.linux.seccomp == default_profile(HOST.architecture, caps, HOST.kernel):
        doc["linux"].pop("seccomp")
        return {**specdoc.flat(doc), "seccomp": "default"}
    return specdoc.flat(doc)


def specs() -> dict[str, dict[str, Any]]:
    found = {case: summary(specdoc.spec(case, HOST)) for case in specdoc.CASES}
    for case in ("plain", "binds", "user", "cap-add-all", "readonly"):
        found[f"{case} in a user namespace"] = summary(specdoc.spec(case, HOST, id_mappings=specdoc.MAPPINGS))
    plain = found["plain"]
    return {
        case: flat if case == "plain" else {k: pair[1] for k, pair in specdoc.difference(plain, flat).items()}
        for case, flat in found.items()
    }


def test_specs_are_as_reviewed() -> None:
    now = json.loads(json.dumps(specs()))
    if os.environ.get("WHARFIE_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    wanted = json.loads(GOLDEN.read_text())
    assert now.keys() == wanted.keys()
    for case in now:
        assert now[case] == wanted[case], case


@pytest.mark.parametrize("case", specdoc.CASES)
def test_spec_survives_the_wire(case: str) -> None:
    s = specdoc.spec(case, HOST)
    assert decode_spec(encode_spec(s)) == s


def test_every_case_says_something() -> None:
    """network none and cgroupns private are what plain has already, until networks exist."""
    assert [case for case, flat in specs().items() if not flat] == ["network-none", "cgroupns-private"]
