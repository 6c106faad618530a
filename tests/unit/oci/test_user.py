# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from wharfie.errdefs import InvalidArgument
from wharfie.oci.user import MAX_FILE_BYTES, ResolvedUser, resolve_user

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
web:x:33:33::/var/www:/bin/false
user:x:1000:1000:,,,:/home/user:/bin/sh
1000:x:0:0:the trap::
short:x:7
bad:x:nan:1::
"""
GROUP = b"""root:x:0:
adm:x:4:root,user
audio:x:29:user
99:x:0:
web:x:33:
"""


@pytest.mark.parametrize(
    ("user", "add", "wanted"),
    [
        ("", (), ResolvedUser(0, 0, (0, 4), "/root")),
        ("root", (), ResolvedUser(0, 0, (0, 4), "/root")),
        ("user", (), ResolvedUser(1000, 1000, (1000, 4, 29), "/home/user")),
        ("user:web", (), ResolvedUser(1000, 33, (33,), "/home/user")),
        ("user:5", (), ResolvedUser(1000, 5, (5,), "/home/user")),
        ("1000", (), ResolvedUser(1000, 1000, (1000, 4, 29), "/home/user")),
        ("4242", (), ResolvedUser(4242, 0, (0,), "/")),
        ("4242:4343", (), ResolvedUser(4242, 4343, (4343,), "/")),
        (":web", (), ResolvedUser(0, 33, (33,), "/root")),
        ("user:", (), ResolvedUser(1000, 1000, (1000, 4, 29), "/home/user")),
        ("web", ("audio", "1234", "29"), ResolvedUser(33, 33, (33, 29, 1234), "/var/www")),
        ("2147483647", (), ResolvedUser(2147483647, 0, (0,), "/")),
    ],
)
def test_resolve(user: str, add: tuple[str, ...], wanted: ResolvedUser) -> None:
    assert resolve_user(user, PASSWD, GROUP, add) == wanted


def test_a_number_is_never_a_name() -> None:
    """CVE-2026-46680: a passwd line named 1000 must not turn uid 1000 into root; the same for groups."""
    assert resolve_user("1000", b"1000:x:0:0:::\n", None).uid == 1000
    assert resolve_user("1000", b"1000:x:0:0:::\n", None) == ResolvedUser(1000, 0, (0,), "/")
    assert resolve_user("user:99", PASSWD, GROUP).gid == 99


@pytest.mark.parametrize("user", ["2147483648", "4294967296:1", "0:2147483648", "99999999999999999999"])
def test_ids_do_not_wrap(user: str) -> None:
    """CVE-2024-40635."""
    with pytest.raises(InvalidArgument):
        resolve_user(user, PASSWD, GROUP)


def test_ids_in_the_files_do_not_wrap() -> None:
    with pytest.raises(InvalidArgument):
        resolve_user("evil", b"evil:x:4294967296:0:::\n", None)


@pytest.mark.parametrize(
    "user", ["nobody-here", "user:nogroup", "a:b:c", "-1", "1000:-1", "us\ner", "short", "bad", "\u0661"]
)
def test_refused(user: str) -> None:
    with pytest.raises(InvalidArgument):
        resolve_user(user, PASSWD, GROUP)


def test_unknown_extra_group() -> None:
    with pytest.raises(InvalidArgument, match="nope"):
        resolve_user("", PASSWD, GROUP, ["nope"])


def test_images_without_files() -> None:
    assert resolve_user("", None, None) == ResolvedUser(0, 0, (0,), "/")
    assert resolve_user("5:6", None, None) == ResolvedUser(5, 6, (6,), "/")
    with pytest.raises(InvalidArgument) as e:
        resolve_user("app", None, None)
    assert e.value.hint


def test_endless_files_are_refused() -> None:
    """CVE-2026-47262."""
    with pytest.raises(InvalidArgument):
        resolve_user("user", PASSWD, b"x" * (MAX_FILE_BYTES + 1))


def test_odd_bytes_and_homes() -> None:
    assert resolve_user("a", b"\xff\xfe\na:x:1:1::relative:\n", None).home == "/"
