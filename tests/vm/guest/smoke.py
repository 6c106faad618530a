# SPDX-License-Identifier: Apache-2.0
"""Runs inside the guest. Prints one line a step for `vm.machine.parse`."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable

sys.path.insert(0, "/payload/guest")


def step(name: str, act: Callable[[], None]) -> bool:
    start = time.monotonic()
    try:
        act()
    except BaseException:
        print(f"WHARFIE-VM fail {name} " + traceback.format_exc().replace("\n", "\\n"), flush=True)
        return False
    print(f"WHARFIE-VM ok {name} {time.monotonic() - start:.2f}", flush=True)
    return True


if __name__ == "__main__":
    step("hello", lambda: None)
    print("WHARFIE-VM end", flush=True)
