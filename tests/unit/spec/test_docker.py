# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wharfie.errdefs import InvalidArgument
from wharfie.spec.docker import (
    ContainerCreateBody,
    HostConfig,
    decode_create,
    decode_exec,
    decode_exec_start,
    decode_update,
)


def test_empty_bodies_are_defaults() -> None:
    assert decode_create(b"") == ContainerCreateBody()
    assert decode_exec_start(b" ").detach is False


def test_keys_match_without_case_and_null_means_absent() -> None:
    body = decode_create(b'{"image":"x","HOSTNAME":null,"hostconfig":{"memory":5,"nanoCPUs":7,"Binds":null}}')
    assert (body.image, body.hostname, body.host_config.memory, body.host_config.nano_cpus) == ("x", "", 5, 7)
    assert body.host_config.binds is None
    assert body.unknown == []


def test_commands_may_be_one_string() -> None:
    body = decode_create(b'{"Cmd":"true","Entrypoint":["a","b"],"HostConfig":{"CapAdd":"ALL"}}')
    assert (body.cmd, body.entrypoint, body.host_config.cap_add) == (["true"], ["a", "b"], ["ALL"])


def test_empty_is_not_nil() -> None:
    body = decode_create(b'{"Entrypoint":[],"HostConfig":{"MaskedPaths":[]}}')
    assert body.entrypoint == []
    assert body.host_config.masked_paths == []


def test_map_keys_are_data() -> None:
    raw = {"Labels": {"hostname": "v", "Memory": "1"}, "HostConfig": {"PortBindings": {"80/tcp": None, "81/tcp": [{}]}}}
    body = decode_create(json.dumps(raw).encode())
    assert body.labels == {"hostname": "v", "Memory": "1"}
    assert body.host_config.port_bindings is not None
    assert body.host_config.port_bindings["80/tcp"] is None
    assert body.unknown == []


def test_unknown_fields_are_kept_unless_they_say_nothing() -> None:
    raw = {
        "Foo": 1, "Quiet": "", "HostConfig": {"Bar": [1], "Nothing": {}, "Mounts": [{"Type": "bind", "Zap": True}]},
        "NetworkingConfig": {"EndpointsConfig": {"n": {"Odd": "x"}}},
    }  # fmt: skip
    assert decode_create(json.dumps(raw).encode()).unknown == [
        "Foo", "HostConfig.Bar", "HostConfig.Mounts[0].Zap", "NetworkingConfig.EndpointsConfig.n.Odd",
    ]  # fmt: skip


def test_a_client_cannot_set_unknown_itself() -> None:
    assert decode_create(b'{"Unknown":["x"]}').unknown == ["Unknown"]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b'{"Hostname":1}', "Hostname"),
        (b'{"HostConfig":{"Memory":"5m"}}', "HostConfig.Memory"),
        (b'{"HostConfig":{"Memory":1.5}}', "HostConfig.Memory"),
        (b'{"Env":{}}', "Env"),
        (b'{"HostConfig":[]}', "HostConfig"),
        (b'{"HostConfig":{"Mounts":[1]}}', "Mounts"),
        (b"[]", "object"),
        (b"{", "truncated"),
        (b'{"Env":["\xff"]}', "read container create request"),
        (b"[" * 100000, "read container create request"),
    ],
)
def test_wrong_types_name_the_field(data: bytes, field: str) -> None:
    with pytest.raises(InvalidArgument) as e:
        decode_create(data)
    assert field in str(e.value)


def test_other_bodies() -> None:
    request = decode_exec(b'{"Cmd":["a"],"AttachStdout":true,"Privileged":true,"X":1}')
    assert (request.cmd, request.attach_stdout, request.privileged, request.unknown) == (["a"], True, True, ["X"])
    update = decode_update(b'{"Memory":7340032,"RestartPolicy":{"Name":"always"}}')
    assert (update.memory, update.restart_policy.name) == (7340032, "always")


def test_host_config_round_trip() -> None:
    """What inspect shows can be posted again."""
    h = HostConfig(memory=1 << 30, blkio_device_read_iops=[], uts_mode="host", cap_add=["CAP_CHOWN"])
    sent = json.dumps({"HostConfig": json.loads(msgspec.json.encode(h))}).encode()
    again = decode_create(sent)
    assert again.unknown == []
    assert again.host_config == h


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Cmd", "HostConfig", "Mounts", "Env", "Labels", "memory", "Zz"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60)
@given(json_values)
def test_any_json_decodes_or_is_refused(value: object) -> None:
    try:
        body = decode_create(json.dumps(value).encode())
    except InvalidArgument:
        return
    assert isinstance(body, ContainerCreateBody)
