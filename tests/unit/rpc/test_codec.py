# SPDX-License-Identifier: Apache-2.0
"""Our codec against google.protobuf: the same tables, made into descriptors, must give the same bytes both ways."""

from __future__ import annotations

import functools
import inspect

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from wharfie.errdefs import InvalidArgument
from wharfie.spec.pb import base, codec, events, metrics, task, ttrpc
from wharfie.spec.pb.codec import Message, Repeated

MESSAGES = sorted(
    {
        cls
        for module in (base, events, metrics, task, ttrpc)
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Message) and cls is not Message
    },
    key=lambda c: (c.__module__, c.__name__),
)
_F = descriptor_pb2.FieldDescriptorProto
_SCALAR = {
    codec.STRING: _F.TYPE_STRING, codec.BYTES: _F.TYPE_BYTES, codec.UINT: _F.TYPE_UINT64, codec.INT: _F.TYPE_INT64,
    codec.BOOL: _F.TYPE_BOOL, codec.DOUBLE: _F.TYPE_DOUBLE,
}  # fmt: skip


def full_name(cls) -> str:
    return f"t.{cls.__module__.rpartition('.')[2]}_{cls.__name__}"


@functools.cache
def google():
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    for cls in MESSAGES:
        out = file.message_type.add(name=full_name(cls)[2:])
        for number, (name, kind) in cls.FIELDS.items():
            field = out.field.add(name=name, number=number, label=_F.LABEL_OPTIONAL)
            if kind in (codec.STRINGS, codec.UINTS):
                field.label, field.type = _F.LABEL_REPEATED, _F.TYPE_STRING if kind == codec.STRINGS else _F.TYPE_UINT64
            elif kind == codec.STRING_MAP:
                entry = out.nested_type.add(name=f"{name.title()}Entry")
                entry.options.map_entry = True
                for n, part in ((1, "key"), (2, "value")):
                    entry.field.add(name=part, number=n, label=_F.LABEL_OPTIONAL, type=_F.TYPE_STRING)
                field.label, field.type = _F.LABEL_REPEATED, _F.TYPE_MESSAGE
                field.type_name = f".{full_name(cls)}.{entry.name}"
            elif isinstance(kind, Repeated):
                field.label, field.type, field.type_name = (
                    _F.LABEL_REPEATED,
                    _F.TYPE_MESSAGE,
                    f".{full_name(kind.message)}",
                )
            elif isinstance(kind, type):
                field.type, field.type_name = _F.TYPE_MESSAGE, f".{full_name(kind)}"
            else:
                field.type = _SCALAR[kind]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {c: message_factory.GetMessageClass(pool.FindMessageTypeByName(full_name(c))) for c in MESSAGES}


def value(kind):
    text = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)
    simple = {
        codec.STRING: text, codec.BYTES: st.binary(max_size=20), codec.UINT: st.integers(0, 2**64 - 1),
        codec.INT: st.integers(-(2**63), 2**63 - 1), codec.BOOL: st.booleans(),
        codec.DOUBLE: st.floats(allow_nan=False), codec.STRINGS: st.lists(text, max_size=3),
        codec.UINTS: st.lists(st.integers(0, 2**64 - 1), max_size=4), codec.STRING_MAP: st.dictionaries(text, text, max_size=1),
    }  # fmt: skip
    if isinstance(kind, Repeated):
        return st.lists(st.deferred(lambda: message(kind.message)), max_size=2)
    if isinstance(kind, type):
        return st.deferred(lambda: message(kind))
    return simple[kind]


def message(cls):
    return st.fixed_dictionaries({}, optional={n: value(k) for n, k in cls.FIELDS.values()}).map(lambda v: cls(**v))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(MESSAGES).flatmap(message))
def test_both_ways(ours):
    theirs = google()[type(ours)]()
    encoded = ours.encode()
    theirs.ParseFromString(encoded)
    assert theirs.SerializeToString(deterministic=True) == encoded
    assert type(ours).decode(theirs.SerializeToString()).encode() == encoded


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MESSAGES), st.binary(max_size=60))
def test_rubbish_is_refused_or_understood(cls, data):
    try:
        cls.decode(data).encode()
    except InvalidArgument:
        pass


def test_unknown_fields_are_skipped():
    newer = task.StateResponse(id="x", pid=7, exec_id="e").encode()
    assert task.ExecIDRequest.decode(newer).id == "x"


def test_numbers_may_be_packed_or_not():
    assert metrics.CPUUsage.decode(b"\x20\x01\x20\x02").per_cpu == [1, 2]
    assert metrics.CPUUsage.decode(b"\x22\x02\x01\x02").per_cpu == [1, 2]


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x0a\x05abc", b"\x08\x01", b"\x0b", b"\x0a" + b"\xff" * 10, b"\x0f"], ids=repr
)
def test_malformed(data):
    with pytest.raises(InvalidArgument):
        task.IDRequest.decode(data)


def test_deep_nesting_is_bounded():
    class Nest(Message):
        FIELDS = {}  # noqa: RUF012

    Nest.FIELDS = {1: ("inner", Nest)}
    data = b""
    for _ in range(1000):
        out = bytearray(b"\x0a")
        codec.write_varint(len(data), out)
        data = bytes(out) + data
    with pytest.raises(InvalidArgument, match="nested too deep"):
        Nest.decode(data)
