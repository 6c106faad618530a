# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from wharfie.errdefs import InvalidArgument
from wharfie.spec.platform import Platform, host_platform, match_rank, normalize, parse_platform


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("Linux", "x86_64"), "linux/amd64"),
        (("linux", "aarch64", "v8"), "linux/arm64"),
        (("linux", "arm"), "linux/arm/v7"),
        (("linux", "armel"), "linux/arm/v6"),
        (("linux", "armhf"), "linux/arm/v7"),
        (("linux", "arm", "6"), "linux/arm/v6"),
        (("linux", "i686"), "linux/386"),
        (("linux", "amd64", "v1"), "linux/amd64"),
        (("linux", "amd64", "v3"), "linux/amd64/v3"),
        (("linux", "riscv64"), "linux/riscv64"),
    ],
)
def test_normalize(given: tuple[str, ...], wanted: str) -> None:
    assert str(normalize(*given)) == wanted


def test_parse() -> None:
    assert parse_platform("linux/arm64/v8") == Platform("linux", "arm64")
    assert parse_platform("arm64").architecture == "arm64"
    assert parse_platform("linux") == host_platform()._replace(os="linux")
    assert parse_platform(" Windows/AMD64 ") == Platform("windows", "amd64")


@pytest.mark.parametrize("text", ["", "/", "linux/", "linux//v7", "plan9/amd64", "toaster", "linux/a/b/c"])
def test_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as e:
        parse_platform(text)
    assert e.value.hint


def ranked(wanted: str, *offered: str) -> list[str]:
    ranks = [(rank, o) for o in offered if (rank := match_rank(parse_platform(wanted), parse_platform(o))) is not None]
    return [o for _, o in sorted(ranks)]


def test_best_match_first() -> None:
    assert ranked("linux/arm/v7", "linux/arm/v5", "linux/arm/v6", "linux/arm/v7") == [
        "linux/arm/v7", "linux/arm/v6", "linux/arm/v5",
    ]  # fmt: skip
    assert ranked("linux/arm/v6", "linux/arm/v7") == []
    assert ranked("linux/amd64", "linux/arm64", "linux/386", "linux/amd64", "windows/amd64") == [
        "linux/amd64",
        "linux/386",
    ]
    assert ranked("linux/arm64", "linux/amd64", "linux/arm/v7") == ["linux/arm/v7"]


def test_amd64_levels() -> None:
    """An image for a higher level would die of an illegal instruction."""
    assert ranked("linux/amd64", "linux/amd64/v3") == []
    assert ranked("linux/amd64/v3", "linux/amd64", "linux/amd64/v2", "linux/amd64/v3")[0] == "linux/amd64/v3"
    assert ranked("linux/amd64/v2", "linux/amd64/v3") == []
