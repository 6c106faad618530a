# SPDX-License-Identifier: Apache-2.0
"""Restart policies: whether an exit, or a start of the daemon, starts a container again, and how long it waits."""

from __future__ import annotations

from wharfie.daemon.services.containers_records import State
from wharfie.spec.docker import RestartPolicy

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 60.0
SETTLED_S = 10.0
"""A run of this length was a good one: the back-off begins anew."""


def after_exit(policy: RestartPolicy, state: State) -> bool:
    """Whether a container whose run has just ended (`state.exit_code`) is started again."""
    if state.stopped_by_user:
        return False
    if policy.name in {"always", "unless-stopped"}:
        return True
    if policy.name == "on-failure" and state.exit_code != 0:
        return not policy.maximum_retry_count or state.restart_count < policy.maximum_retry_count
    return False


def at_daemon_start(policy: RestartPolicy, state: State, *, was_running: bool) -> bool:
    """Whether a container that is found stopped when the daemon starts is started.

    `was_running`: its run ended while no daemon was there to see it.
    """
    if not state.started_once:
        return False
    if policy.name == "always":
        return True
    if policy.name == "unless-stopped":
        return not state.stopped_by_user
    return was_running and after_exit(policy, state)


def delay_s(restart_count: int, ran_s: float) -> float:
    """Pause before restart number `restart_count` (from 0), after a run of `ran_s`."""
    if ran_s >= SETTLED_S:
        return FIRST_DELAY_S
    return min(FIRST_DELAY_S * (1 << min(restart_count, 16)), MAX_DELAY_S)
