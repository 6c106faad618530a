# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF012
"""What travels inside ttrpc frames: ttrpc.Request, ttrpc.Response, google.rpc.Status; and the events service."""

from __future__ import annotations

from collections.abc import Sequence

from wharfie.spec.pb.base import Any, Timestamp
from wharfie.spec.pb.codec import BYTES, INT, STRING, Message, Repeated


class KeyValue(Message):
    key: str = ""
    value: str = ""
    FIELDS = {1: ("key", STRING), 2: ("value", STRING)}


class Request(Message):
    service: str = ""
    method: str = ""
    payload: bytes = b""
    timeout_nano: int = 0
    metadata: Sequence[KeyValue] = ()
    FIELDS = {
        1: ("service", STRING), 2: ("method", STRING), 3: ("payload", BYTES), 4: ("timeout_nano", INT),
        5: ("metadata", Repeated(KeyValue)),
    }  # fmt: skip


class Status(Message):
    code: int = 0
    message: str = ""
    details: Sequence[Any] = ()
    FIELDS = {1: ("code", INT), 2: ("message", STRING), 3: ("details", Repeated(Any))}


class Response(Message):
    status: Status | None = None
    payload: bytes = b""
    FIELDS = {1: ("status", Status), 2: ("payload", BYTES)}


class Envelope(Message):
    timestamp: Timestamp | None = None
    namespace: str = ""
    topic: str = ""
    event: Any | None = None
    FIELDS = {1: ("timestamp", Timestamp), 2: ("namespace", STRING), 3: ("topic", STRING), 4: ("event", Any)}


class ForwardRequest(Message):
    """containerd.services.events.ttrpc.v1.Events/Forward"""

    envelope: Envelope | None = None
    FIELDS = {1: ("envelope", Envelope)}
