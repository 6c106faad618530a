# SPDX-License-Identifier: Apache-2.0
"""The kernel's verifier takes the device program of every kind of rule list. It refuses code that is never reached."""

from __future__ import annotations

import os

import pytest

from wharfie.linux.bpf import load_device_program
from wharfie.oci.devices import ALLOW_ALL, DEFAULT_RULES, parse_rule
from wharfie.runtime.linux.cgroups.devices import program, rules
from wharfie.spec.runtime import DeviceCgroup

pytestmark = pytest.mark.root

LISTS = {
    "nothing": [],
    "default": list(DEFAULT_RULES),
    "privileged": list(ALLOW_ALL),
    "devices": [*DEFAULT_RULES, parse_rule("c 13:* rwm"), parse_rule("b 254:0 r"), parse_rule("a 1:2 w")],
    "deny one": [*ALLOW_ALL, DeviceCgroup(False, "c", 1, 3, "w")],
    "all in the middle": [
        DeviceCgroup(False, access="rwm"),
        DeviceCgroup(True, "a", access="rwm"),
        parse_rule("c 1:1 m"),
    ],
    "all, read only": [DeviceCgroup(True, "a", access="r")],
    "many": [parse_rule(f"c {n}:{n} rwm") for n in range(300)],
}


@pytest.mark.parametrize("name", LISTS)
def test_verifier(name: str) -> None:
    os.close(load_device_program(program(rules(LISTS[name]))))
