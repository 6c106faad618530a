# SPDX-License-Identifier: Apache-2.0
"""Numbers and records in tar headers: octal, base-256, PAX records, sparse maps.

Spec: POSIX pax(1); GNU tar manual, "Basic Tar Format" and "Storing Sparse Files". Everything malformed is DataLoss.
"""

from __future__ import annotations

from wharfie.errdefs import DataLoss

MAX_SPARSE_EXTENTS = 1 << 20
_MAX_SIZE = (1 << 63) - 1


def number(field: bytes, what: str) -> int:
    """An octal or base-256 number of a header. An empty field is 0."""
    if field and field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        # The top bit marks the form; the next one is the sign.
        value = value - (1 << bits) if field[0] & 0x40 else value & ((1 << bits - 1) - 1)
        if not -_MAX_SIZE <= value <= _MAX_SIZE:
            raise DataLoss(f"read tar header: {what} is out of range")
        return value
    text = field.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    try:
        if text.isdigit():
            return int(text, 8)
    except ValueError:
        pass
    raise DataLoss(f"read tar header: {what} is no number: {text[:32]!r}")


def decimal(text: bytes, what: str) -> int:
    """A non-negative decimal number of a PAX record or sparse map."""
    if not text.isdigit() or len(text) > 20 or (value := int(text)) > _MAX_SIZE:
        raise DataLoss(f"read tar: {what} is no number: {text[:32]!r}")
    return value


def seconds(text: bytes) -> tuple[int, int]:
    """A PAX time, `[-]digits[.digits]`, as (seconds, nanoseconds); nanoseconds count upward also before 1970."""
    whole, _, fraction = text.partition(b".")
    negative = whole.startswith(b"-")
    s = decimal(whole[negative:] or b"0", "mtime")
    if fraction and not fraction.isdigit():
        raise DataLoss(f"read tar: mtime is no number: {text[:32]!r}")
    ns = int(fraction[:9].ljust(9, b"0")) if fraction else 0
    if not negative:
        return s, ns
    return (-s - 1, 1_000_000_000 - ns) if ns else (-s, 0)


def records(body: bytes) -> list[tuple[bytes, bytes]]:
    r"""PAX records `LENGTH KEY=VALUE\n`, in order."""
    found = []
    pos, end = 0, len(body)
    while pos < end:
        space = body.find(b" ", pos, pos + 20)
        digits = body[pos:space]
        if space < 0 or not digits.isdigit():
            raise DataLoss("read tar: malformed PAX record: no length")
        stop = pos + int(digits)
        if stop > end or stop <= space + 1 or body[stop - 1] != 0x0A:
            raise DataLoss("read tar: malformed PAX record: wrong length")
        key, equals, value = body[space + 1 : stop - 1].partition(b"=")
        if not equals or not key:
            raise DataLoss("read tar: malformed PAX record: no `=`")
        found.append((key, value))
        pos = stop
    return found


def check_extents(extents: list[tuple[int, int]], size: int, stored: int) -> tuple[tuple[int, int], ...]:
    """A sparse map that is sorted, inside the file, and as long as what is stored. Empty extents are dropped."""
    at = total = 0
    kept = []
    for offset, length in extents:
        if offset < at or length < 0 or offset + length > size:
            raise DataLoss("read tar: sparse map is out of order or beyond the file")
        at = offset + length
        total += length
        if length:
            kept.append((offset, length))
    if total != stored:
        raise DataLoss(f"read tar: sparse map holds {total} bytes, the archive {stored}")
    return tuple(kept)


def old_gnu_extents(block: bytes, start: int, count: int) -> list[tuple[int, int]]:
    """`count` pairs of offset and length, 12 bytes each, from `start`; an empty pair ends the list."""
    found = []
    for at in range(start, start + 24 * count, 24):
        if not block[at]:
            break
        found.append((number(block[at : at + 12], "sparse offset"), number(block[at + 12 : at + 24], "sparse length")))
    return found
