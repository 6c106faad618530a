# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging

import pytest

from wharfie.events import Envelope
from wharfie.events.exchange import Exchange


def test_everybody_hears_until_they_cancel() -> None:
    exchange = Exchange()
    heard: list[Envelope] = []
    cancel = exchange.subscribe(heard.append)
    exchange.publish("default", "/tasks/start", {"pid": 1}, subject="c")
    cancel()
    exchange.publish("default", "/tasks/exit", {})
    assert [e.topic for e in heard] == ["/tasks/start"]
    assert heard[0].subject == "c"


def test_the_past_is_bounded_and_in_order_of_time() -> None:
    exchange = Exchange(keep=3)
    for n in (5, 1, 4, 3):
        exchange.publish("default", f"/{n}", {}, timestamp_ns=n)
    assert [e.timestamp_ns for e in exchange.recent()] == [1, 3, 4]


def test_a_bad_subscriber_does_not_disturb_the_others(caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange()
    heard: list[Envelope] = []

    def bad(_: Envelope) -> None:
        raise ValueError("mine")

    exchange.subscribe(bad)
    exchange.subscribe(heard.append)
    with caplog.at_level(logging.ERROR):
        exchange.publish("default", "/tasks/start", {})
    assert len(heard) == 1
    assert "/tasks/start" in caplog.text
