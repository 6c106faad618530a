# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from wharfie.daemon.services import log_options
from wharfie.errdefs import InvalidArgument, Unsupported
from wharfie.tasks import LogConfig


def test_checked_options_become_the_shims() -> None:
    options = {"max-size": "10m", "max-file": "3", "labels": "a,b"}
    log_options.check("local", options)
    assert log_options.task_log("local", options, "/c/log", "id") == LogConfig("local", "/c/log", 10 << 20, 3)
    assert log_options.task_log("json-file", {}, "/c/log", "id") == LogConfig("json-file", "/c/log/id-json.log", 0, 1)


@pytest.mark.parametrize(
    ("text", "size"), [("", 0), ("-1", 0), ("10", 10), ("10k", 10240), ("3MB", 3 << 20), ("1gib", 1 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert log_options.task_log("local", {"max-size": text}, "/l", "id").max_size_bytes == size


@pytest.mark.parametrize("driver", ["syslog", "journald", "binary:///bin/x"])
def test_drivers_that_come_later(driver: str) -> None:
    with pytest.raises(Unsupported, match=driver):
        log_options.check(driver, {})


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("nosuch", {}),
        ("local", {"max-size": "many"}),
        ("local", {"max-file": "0", "max-size": "1m"}),
        ("local", {"max-file": "x", "max-size": "1m"}),
        ("local", {"max-file": "2"}),
    ],
)
def test_nothing_wrong_is_taken(driver: str, options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument):
        log_options.check(driver, options)


@pytest.mark.parametrize(("driver", "option"), [("local", "compress"), ("json-file", "tag"), ("none", "max-size")])
def test_no_option_is_taken_and_ignored(driver: str, option: str) -> None:
    with pytest.raises(Unsupported, match=option):
        log_options.check(driver, {option: "1m"})
