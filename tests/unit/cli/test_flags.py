# SPDX-License-Identifier: Apache-2.0
"""Golden cases of the flag parser: the rules are the docker command line's, checked against it in tests/cli/test_same.py."""

from __future__ import annotations

from typing import Any

import pytest

from wharfie.cli.command import UsageError
from wharfie.cli.container.flags import RUN_FLAGS
from wharfie.cli.flags import HelpWanted, nearest, parse

FLAGS = (
    ("all", "a", "bool", "all"),
    ("big", "b", "bool", "big", True),
    ("count", "n", "int", "count", -1),
    ("env", "e", "list", "env"),
    ("memory", "m", "bytes", "memory"),
    ("name", "", "string", "name", "none"),
    ("tag", "t", "strings", "tags"),
)


@pytest.mark.parametrize(
    ("words", "values", "operands"),
    [
        ([], {}, []),
        (["-a"], {"all": True}, []),
        (["-ab"], {"all": True, "big": True}, []),
        (["-a=false"], {"all": False}, []),
        (["--big=0", "x"], {"big": False}, ["x"]),
        (["--all", "false"], {"all": True}, ["false"]),
        (["-n5"], {"count": 5}, []),
        (["-n", "5"], {"count": 5}, []),
        (["-n=5"], {"count": 5}, []),
        (["-an5"], {"all": True, "count": 5}, []),
        (["-an", "5", "x"], {"all": True, "count": 5}, ["x"]),
        (["--count=-1"], {"count": -1}, []),
        (["--count", "-1"], {"count": -1}, []),
        (["--count", "0x10"], {"count": 16}, []),
        (["-eA=1", "-e", "B=2", "--env", "C", "--env=D=4=5"], {"env": ["A=1", "B=2", "C", "D=4=5"]}, []),
        (["-e", ""], {"env": [""]}, []),
        (["--name", "--all"], {"name": "--all"}, []),
        (["--name="], {"name": ""}, []),
        (["-m", "1g"], {"memory": 1 << 30}, []),
        (["-t", "a,b", "-tc"], {"tag": ["a", "b", "c"]}, []),
        (["x", "-a", "y"], {"all": True}, ["x", "y"]),
        (["--", "-a"], {}, ["-a"]),
        (["-", "-a"], {"all": True}, ["-"]),
        (["-a", "--", "x", "--", "-b"], {"all": True}, ["x", "--", "-b"]),
    ],
)
def test_words(words: list[str], values: dict[str, Any], operands: list[str]) -> None:
    options, rest = parse(FLAGS, words)
    assert options.values == values
    assert options.given == set(values)
    assert rest == operands


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--foo"], "unknown flag: --foo"),
        (["--al"], "unknown flag: --al\nDid you mean --all?"),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["-ax"], "unknown shorthand flag: 'x' in -ax"),
        (["-e"], "flag needs an argument: 'e' in -e"),
        (["-ae"], "flag needs an argument: 'e' in -ae"),
        (["--env"], "flag needs an argument: --env"),
        (["-n", "x"], 'invalid argument "x" for "-n, --count" flag: \'x\' is not a whole number'),
        (["-n", "1_0"], 'invalid argument "1_0" for "-n, --count" flag: \'1_0\' is not a whole number'),
        (["-a=x"], 'invalid argument "x" for "-a, --all" flag: \'x\' is neither true nor false'),
        (["-m", "x"], 'invalid argument "x" for "-m, --memory" flag: invalid size: \'x\''),
    ],
)
def test_refusals(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as e:
        parse(FLAGS, words)
    assert str(e.value) == message
    assert e.value.code == 125


def test_flags_end_at_the_image() -> None:
    options, rest = parse(RUN_FLAGS, ["--rm", "-it", "busybox", "ls", "-l", "--rm=false"], interspersed=False)
    assert rest == ["busybox", "ls", "-l", "--rm=false"]
    assert options.given == {"rm", "interactive", "tty"}
    assert options.on("rm")


def test_help_is_found_wherever_flags_are() -> None:
    with pytest.raises(HelpWanted):
        parse(FLAGS, ["x", "--help"])
    with pytest.raises(HelpWanted):
        parse(FLAGS, ["-h"])
    assert parse(RUN_FLAGS, ["-h", "box", "busybox"], interspersed=False)[0].text("hostname") == "box"


def test_defaults() -> None:
    options, _ = parse(FLAGS, [])
    assert (options.on("all"), options.on("big"), options.number("count"), options.text("name")) == (
        False,
        True,
        -1,
        "none",
    )
    assert options.items("env") == []
    with pytest.raises(KeyError):
        options.text("nosuch")


def test_tables_are_sound() -> None:
    """No name or letter twice, every kind known: a typo in a table would otherwise show only when the flag is used."""
    from wharfie.cli.commands import COMMANDS, NOUNS, load
    from wharfie.cli.values import KINDS

    targets = {v[0] for v in COMMANDS.values()} | {v[0] for _, verbs in NOUNS.values() for v in verbs.values()}
    assert len(targets) > 50
    for target in targets:
        command = load(target)
        names = [f[0] for f in command.flags]
        shorts = [f[1] for f in command.flags if f[1]]
        assert len(set(names)) == len(names), target
        assert len(set(shorts)) == len(shorts), target
        for flag in command.flags:
            assert flag[2].removesuffix("[]") in {"bool", "string", "int", "list", "strings", "word?", *KINDS}, (
                target,
                flag,
            )
            assert flag[3], (target, flag)


@pytest.mark.parametrize(("word", "near"), [("imgaes", "images"), ("runn", "run"), ("xyzzy", ""), ("sop", "stop")])
def test_nearest(word: str, near: str) -> None:
    assert nearest(word, ["run", "images", "stop", "start"]) == near
