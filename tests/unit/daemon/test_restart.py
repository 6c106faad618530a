# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from wharfie.daemon.services.containers_records import State
from wharfie.daemon.services.restart import after_exit, at_daemon_start, delay_s
from wharfie.spec.docker import RestartPolicy


@pytest.mark.parametrize(
    ("policy", "limit", "code", "count", "stopped", "again"),
    [
        ("no", 0, 1, 0, False, False),
        ("", 0, 1, 0, False, False),
        ("always", 0, 0, 9, False, True),
        ("always", 0, 0, 9, True, False),
        ("unless-stopped", 0, 0, 0, False, True),
        ("unless-stopped", 0, 0, 0, True, False),
        ("on-failure", 0, 0, 0, False, False),
        ("on-failure", 0, 1, 99, False, True),
        ("on-failure", 3, 1, 2, False, True),
        ("on-failure", 3, 1, 3, False, False),
    ],
)
def test_after_exit(  # noqa: PLR0917
    policy: str, limit: int, code: int, count: int, stopped: bool, again: bool
) -> None:
    state = State(exit_code=code, restart_count=count, stopped_by_user=stopped)
    assert after_exit(RestartPolicy(name=policy, maximum_retry_count=limit), state) is again


@pytest.mark.parametrize(
    ("policy", "started", "stopped", "was_running", "again"),
    [
        ("always", False, False, False, False),
        ("always", True, True, False, True),
        ("unless-stopped", True, True, False, False),
        ("unless-stopped", True, False, False, True),
        ("on-failure", True, False, True, True),
        ("on-failure", True, False, False, False),
        ("no", True, False, True, False),
    ],
)
def test_at_daemon_start(policy: str, started: bool, stopped: bool, was_running: bool, again: bool) -> None:
    state = State(exit_code=1, started_once=started, stopped_by_user=stopped)
    assert at_daemon_start(RestartPolicy(name=policy), state, was_running=was_running) is again


def test_back_off_doubles_to_a_minute_and_forgets_after_a_good_run() -> None:
    assert [delay_s(n, 0) for n in range(4)] == [0.1, 0.2, 0.4, 0.8]
    assert delay_s(50, 0) == 60
    assert delay_s(50, 11) == 0.1
