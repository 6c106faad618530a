# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from wharfie.errdefs import InvalidArgument
from wharfie.spec.runtime import Process, Spec, State, decode_process, decode_spec, encode_spec


def test_version_is_always_written() -> None:
    """crun refuses a document without it."""
    assert json.loads(encode_spec(Spec()))["ociVersion"]
    assert json.loads(encode_spec(State("i", "running", "/b")))["ociVersion"]


@pytest.mark.peer
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_reads_what_runtimes_write(runtime: str, tmp_path: Path) -> None:
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    subprocess.run([runtime, "spec"], cwd=tmp_path, check=True)
    data = (tmp_path / "config.json").read_bytes()
    spec = decode_spec(data)
    assert spec.process
    assert spec.process.args == ["sh"]
    assert spec.linux
    assert {n.type for n in spec.linux.namespaces} >= {"pid", "network", "mount"}
    assert decode_spec(encode_spec(spec)) == spec


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b'{"process":{}}', "cwd"),
        (b'{"linux":{"resources":{"memory":{"limit":"1"}}}}', "memory.limit"),
        (b'{"mounts":[{}]}', "destination"),
        (b"{", "config.json"),
        (b'{"process":{"cwd":"\xff"}}', "config.json"),
    ],
)
def test_errors_name_the_field(data: bytes, field: str) -> None:
    with pytest.raises(InvalidArgument) as e:
        decode_spec(data)
    assert field in str(e.value)


def test_wire_spelling() -> None:
    raw = {
        "cwd": "/", "noNewPrivileges": True, "apparmorProfile": "p", "selinuxLabel": "l", "oomScoreAdj": 0,
        "user": {"additionalGids": [1]}, "execCPUAffinity": {"initial": "0"}, "ioPriority": {"class": "IOPRIO_CLASS_IDLE"},
    }  # fmt: skip
    p = decode_process(json.dumps(raw).encode())
    assert p == Process(
        cwd="/", no_new_privileges=True, apparmor_profile="p", selinux_label="l", oom_score_adj=0, user=p.user,
        exec_cpu_affinity=p.exec_cpu_affinity, io_priority=p.io_priority,
    )  # fmt: skip
    again = json.loads(encode_spec(p))
    assert again["oomScoreAdj"] == 0
    assert again["ioPriority"] == {"class": "IOPRIO_CLASS_IDLE"}
    assert again["execCPUAffinity"] == {"initial": "0"}
