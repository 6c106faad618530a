# SPDX-License-Identifier: Apache-2.0
"""Container ids and names: making them, checking them, finding what a text means."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

from wharfie.errdefs import InvalidArgument

_NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z")
MAX_NAME = 255

_LEFT = (
    "able amber bold brave brisk calm clear clever cosy crisp deft eager early fair fast fond free fresh gentle glad "
    "grand happy hardy jolly keen kind light lively loyal lucky mellow merry mild neat nimble noble open patient plain "
    "proud quick quiet rapid ready sharp shiny smart snug solid steady stout sunny swift tidy warm wise witty young"
).split()
_RIGHT = (
    "anchor barge beacon berth bollard bosun bow brig buoy cabin capstan cargo chart cleat clipper compass coxswain "
    "crane crate crew davit deck derrick dinghy dock ferry fleet frigate galley gangway hatch harbour hawser helm hoist "
    "hold hull jetty keel ketch knot lantern latch lighter lock mast mooring oar pallet pier pilot pontoon port prow "
    "pulley quay rigger rope rudder sail schooner sextant skiff sling sloop stern tender tide tiller trawler tug wharf "
    "winch yawl"
).split()


def new_id() -> str:
    """64 hex digits; never all decimal in the first 12, which people would take for a number."""
    while True:
        found = secrets.token_hex(32)
        if not found[:12].isdigit():
            return found


def check_name(name: str) -> str:
    """The name without a leading slash. Raises InvalidArgument."""
    if not _NAME.match(name) or len(name) > MAX_NAME:
        raise InvalidArgument(
            f"invalid container name ({name[:MAX_NAME]}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            hint="up to 255 letters, digits, '_', '.', '-', the first a letter or digit",
        )
    return name.removeprefix("/")


def random_name(taken: Callable[[str], bool]) -> str:
    """A name that is not `taken`."""
    for attempt in range(100):
        name = f"{secrets.choice(_LEFT)}_{secrets.choice(_RIGHT)}"
        if attempt > 3:
            name += str(secrets.randbelow(10 ** (attempt // 4)))
        if not taken(name):
            return name
    return new_id()[:12]
