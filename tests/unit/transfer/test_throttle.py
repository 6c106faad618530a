# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from wharfie.transfer import Phase, Progress
from wharfie.transfer.throttle import Throttle


def test_changed_phases_always_pass_and_the_rest_is_thinned() -> None:
    seen: list[Progress] = []
    tell = Throttle(seen.append)
    for n in range(1000):
        tell(Progress("a", Phase.DOWNLOADING, n, 1000))
        tell(Progress("b", Phase.DOWNLOADING, n, 1000))
    tell(Progress("a", Phase.DOWNLOADED))
    tell(Progress("a", Phase.EXTRACTING))
    assert [e.id for e in seen[:2]] == ["a", "b"]
    assert len(seen) < 20
    assert [e.phase for e in seen[-2:]] == [Phase.DOWNLOADED, Phase.EXTRACTING]
