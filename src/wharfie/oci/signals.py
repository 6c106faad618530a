# SPDX-License-Identifier: Apache-2.0
"""Signal names -> Linux numbers, on any host (signal(7); asm-generic numbers, which all image platforms but MIPS use)."""

from __future__ import annotations

from wharfie.errdefs import InvalidArgument

_NAMES = (
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
)  # fmt: skip
SIGNALS: dict[str, int] = {name: number for number, name in enumerate(_NAMES, 1)}
SIGNALS |= {"IOT": 6, "CLD": 17, "POLL": 29}
_RTMIN, _RTMAX = 34, 64


def parse_signal(text: str) -> int:
    """`SIGTERM`, `term`, `15`, `RTMIN+3`, `RTMAX-1` -> number. Raises InvalidArgument."""
    name = text.strip().upper().removeprefix("SIG")
    number = SIGNALS.get(name)
    if name.isascii() and name.isdigit() and len(name) < 4:
        number = int(name)
    elif name.startswith(("RTMIN", "RTMAX")):
        base, offset = (_RTMIN if name.startswith("RTMIN") else _RTMAX), name[5:]
        if not offset:
            number = base
        elif offset[0] in "+-" and offset[1:].isascii() and offset[1:].isdigit() and len(offset) < 4:
            number = base + int(offset)
        if number is not None and not _RTMIN <= number <= _RTMAX:
            number = None
    if number is None or not 1 <= number <= _RTMAX:
        raise InvalidArgument(f"read signal {text!r}: there is no such signal", hint="for example SIGTERM or 15")
    return number
