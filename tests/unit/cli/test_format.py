# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from typing import Any

import pytest

from wharfie.cli.container.list import ports
from wharfie.cli.format import human, tables
from wharfie.cli.format.template import Template
from wharfie.errdefs import InvalidArgument

DATA: dict[str, Any] = {
    "Name": "web",
    "State": {"Status": "running", "Pid": 7, "OOM": False, "Health": None},
    "Args": ["a", "b"],
    "Labels": {"x.y": "1", "b": "<&>"},
    "Empty": [],
    "None": None,
    "Ratio": 1.5,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("{{.Name}}-{{.State.Status}}", "web-running"),
        ("{{ .State.OOM }} {{.None}} {{.Args}} {{.Ratio}}", "false <no value> [a b] 1.5"),
        ("{{.Labels}}", "map[b:<&> x.y:1]"),
        ("{{json .Args}} {{json .Labels}} {{.State.Pid | json}}", '["a","b"] {"x.y":"1","b":"<&>"} 7'),
        ('{{join .Args ","}} {{index .Labels "x.y"}} {{index .Args 1}}', "a,b 1 b"),
        ('{{index .Labels "nope"}}', "<no value>"),
        ("{{range .Args}}[{{.}}]{{end}}", "[a][b]"),
        ("{{range $i, $a := .Args}}{{$i}}={{$a}} {{end}}", "0=a 1=b "),
        ("{{range $k, $v := .Labels}}{{$k}}:{{$v}};{{end}}", "b:<&>;x.y:1;"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .Args}}{{$.Name}}{{end}}", "webweb"),
        ("{{if .State.OOM}}a{{else if .Args}}b{{else}}c{{end}}", "b"),
        ("{{if and .Name (not .State.OOM)}}y{{end}}", "y"),
        ('{{if eq .State.Status "running" "paused"}}y{{else}}n{{end}}', "y"),
        ("{{if gt .State.Pid 5}}y{{end}}{{if lt .State.Pid 5}}n{{end}}", "y"),
        ("{{with .State}}{{.Pid}}{{end}}", "7"),
        ("{{with $s := .State}}{{$s.Pid}}{{end}}", "7"),
        ("{{$x := .Name}}{{$x}}", "web"),
        ("{{(index .Args 0)}}{{(.State).Pid}}", "a7"),
        ("a {{- .Name -}} b", "awebb"),
        ("{{/* nothing */}}x", "x"),
        ('{{"quoted \\"}}\\""}}', 'quoted "}}"'),
        ("{{upper .Name}} {{lower `ABC`}} {{title .Name}} {{len .Args}} {{truncate .Name 2}}", "WEB abc Web 2 we"),
        ('{{printf "%-5s|%03d|%q|%v|%t%%" .Name .State.Pid .Name .Args true}}', 'web  |007|"web"|[a b]|true%'),
        ('{{println .Name 1}}{{print 1 2 "x" 3}}', "web 1\n1 2x3"),
        ('{{range split "a:b" ":"}}{{.}} {{end}}', "a b "),
        ("{{slice .Name 1 2}}", "e"),
        ("{{.State.Nope}} {{.State.Nope.Deeper}}", "<no value> <no value>"),
        ("{{or .None .Name}}", "web"),
    ],
)
def test_template(text: str, expected: str) -> None:
    assert Template(text).render(DATA) == expected


@pytest.mark.parametrize(
    "text",
    ["{{.Nope}}", "{{", "{{.Name", "{{end}}", "{{if .Name}}", "{{nosuch .Name}}", "{{.Name | .Args}}", "{{range}}{{end}}",
     "{{index .Args 5}}", '{{template "x"}}', "{{.Name }", "{{if .Name}}{{else foo}}{{end}}", '{{"open}}', "{{.Name.First}}",
     '{{printf "%d"}}', "{{(.Name}}", '{{.Name "x"}}', "{{}}"],
)  # fmt: skip
def test_template_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--format"):
        Template(text).render(DATA)


def test_tables() -> None:
    assert tables.lines(("A", "LONG HEADER", "C"), [("x" * 12, "y", "z")]) == [
        "A              LONG HEADER   C",
        "xxxxxxxxxxxx   y             z",
    ]
    assert tables.lines(("A", "B"), [("x", "y")]) == ["A         B", "x         y"]


def test_table_template(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show(r"table {{.A}}\t{{upper .B}}", {"A": "A HEAD", "B": "b"}, ("A",), [{"A": "x", "B": "y"}])
    assert capsys.readouterr().out == "A HEAD    B\nx         Y\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (125, "2 minutes"),
     (3600, "About an hour"), (2 * 3600, "2 hours"), (47 * 3600, "47 hours"), (48 * 3600, "2 days"), (14 * 86400, "2 weeks"),
     (60 * 86400, "2 months"), (800 * 86400, "2 years")],
)  # fmt: skip
def test_span(seconds: float, text: str) -> None:
    assert human.span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (999, "999B"), (1000, "1kB"), (4261000, "4.26MB"), (123456789, "123MB")]
)
def test_size(count: int, text: str) -> None:
    assert human.size(count) == text


def test_rfc3339() -> None:
    assert human.parse_rfc3339("2023-11-14T22:13:20Z") == 1700000000
    assert human.parse_rfc3339("2023-11-15T00:13:20.5+02:00") == 1700000000.5
    for bad in ("2023-11-14T22:13:20", "x", "2023-11-14T22:13:20+2"):
        with pytest.raises(ValueError, match=r"time|does not match"):
            human.parse_rfc3339(bad)
    assert time.time() - human.parse_rfc3339(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())) < 5


def test_ports() -> None:
    assert ports([]) == ""
    assert ports([
        {"PrivatePort": 443, "Type": "tcp"},
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "0.0.0.0", "PrivatePort": 81, "PublicPort": 8081, "Type": "tcp"},
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
    ]) == "0.0.0.0:8080-8081->80-81/tcp, [::]:8080->80/tcp, 443/tcp"  # fmt: skip
