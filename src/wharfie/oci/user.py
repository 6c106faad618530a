# SPDX-License-Identifier: Apache-2.0
"""USER words -> numbers, from the image's own passwd and group files (hostile text: size and numbers are checked)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from wharfie.errdefs import InvalidArgument

MAX_FILE_BYTES = 4 << 20
"""Larger passwd or group files are refused; read at most this many bytes plus one (CVE-2026-47262)."""
_MAX_ID = 2**31 - 1


class ResolvedUser(NamedTuple):
    """`home` is the passwd entry's, or "/" for a number without one. `additional_gids` begins with `gid`."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = (0,)
    home: str = "/"


def _rows(kind: str, data: bytes | None, fields: int) -> Iterator[list[str]]:
    if data is None:
        return
    if len(data) > MAX_FILE_BYTES:
        raise InvalidArgument(f"read the image's /etc/{kind}: it has more than {MAX_FILE_BYTES} bytes")
    for line in data.split(b"\n"):
        row = line.decode("utf-8", "surrogateescape").split(":")
        if len(row) >= fields and row[0] and not row[0].startswith("#"):
            yield row


def _number(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdigit() and len(word) <= 20 else None


def _checked(what: str, word: str, number: int) -> int:
    if number > _MAX_ID:
        raise InvalidArgument(f"read {what} {word!r}: ids go from 0 to {_MAX_ID}")
    return number


def _find_gid(word: str, group: bytes | None, what: str) -> int:
    number = _number(word)
    if number is not None:
        return _checked(what, word, number)
    for row in _rows("group", group, 3):
        if row[0] == word and (gid := _number(row[2])) is not None:
            return _checked(what, row[2], gid)
    raise InvalidArgument(
        f"find {what} {word!r}: the image's /etc/group has no such name", hint="give the number, as in -u 1000:1000"
    )


def resolve_user(user: str, passwd: bytes | None, group: bytes | None, group_add: Sequence[str] = ()) -> ResolvedUser:
    """`user` is `[name|uid][:[group|gid]]`, "" for root; `passwd` and `group` are the files' bytes, None where missing.

    A number is always a number, even if the file has a user of that name (CVE-2026-46680). With an explicit group the
    group file adds no supplementary ones, as with Docker; `group_add` always does.
    Raises InvalidArgument: unknown name, an id above 2^31-1 (CVE-2024-40635), a file beyond MAX_FILE_BYTES.
    """
    who, colon, group_word = user.partition(":")
    if ":" in group_word or "\0" in user or "\n" in user:
        raise InvalidArgument(f"read user {user!r}: it is not name[:group]")
    who = who or "0"
    number = _number(who)
    uid, gid, home, name = number, 0, "/", ""
    if number is not None:
        _checked("user id", who, number)
    for row in _rows("passwd", passwd, 4):
        row_uid, row_gid = _number(row[2]), _number(row[3])
        if row_uid is None or row_gid is None or (row_uid != number if number is not None else row[0] != who):
            continue
        name, uid, gid = row[0], _checked("user id", row[2], row_uid), _checked("group id", row[3], row_gid)
        home = row[5] if len(row) > 5 and row[5].startswith("/") else "/"
        break
    if uid is None:
        raise InvalidArgument(
            f"find user {who!r}: the image's /etc/passwd has no such name", hint="give the number, as in -u 1000:1000"
        )
    extra: list[int] = []
    if colon and group_word:
        gid = _find_gid(group_word, group, "group")
    elif name:
        for row in _rows("group", group, 4):
            member_gid = _number(row[2])
            if member_gid is not None and name in row[3].strip().split(","):
                extra.append(_checked("group id", row[2], member_gid))
    extra += [_find_gid(word, group, "group") for word in group_add]
    return ResolvedUser(uid, gid, tuple(dict.fromkeys([gid, *extra])), home)
