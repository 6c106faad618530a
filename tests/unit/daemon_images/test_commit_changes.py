# SPDX-License-Identifier: Apache-2.0
"""--change: Dockerfile instructions on an image's config."""

from __future__ import annotations

import pytest

from wharfie.daemon.services.commit_changes import apply_changes
from wharfie.errdefs import InvalidArgument
from wharfie.spec.image import ContainerConfig, Healthcheck

BASE = ContainerConfig(env=["PATH=/bin", "A=1"], labels={"old": "x"}, working_dir="/srv")


def changed(*changes: str) -> ContainerConfig:
    return apply_changes(BASE, changes)


def test_base_is_not_touched() -> None:
    changed("ENV A=2", "LABEL new=y", "EXPOSE 80")
    assert BASE.env == ["PATH=/bin", "A=1"]
    assert BASE.labels == {"old": "x"}
    assert BASE.exposed_ports is None


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ('CMD ["a", "b c"]', "cmd", ["a", "b c"]),
        ("CMD echo  $A", "cmd", ["/bin/sh", "-c", "echo  $A"]),
        ('entrypoint ["x"]', "entrypoint", ["x"]),
        ("CMD [not json", "cmd", ["/bin/sh", "-c", "[not json"]),
        ("ENV A=2 B='c d' C=\"e f\"", "env", ["PATH=/bin", "A=2", "B=c d", "C=e f"]),
        ("ENV B one two", "env", ["PATH=/bin", "A=1", "B=one two"]),
        ("ENV B=$A-${A}-${NO:-d}-${A:+yes}-${NO:+no}", "env", ["PATH=/bin", "A=1", "B=1-1-d-yes-"]),
        (r"ENV B=a\ b\$A", "env", ["PATH=/bin", "A=1", "B=a b$A"]),
        ("ENV B='$A'", "env", ["PATH=/bin", "A=1", "B=$A"]),
        ('LABEL a=b "c d"=e', "labels", {"old": "x", "a": "b", "c d": "e"}),
        ("EXPOSE 80 90/udp 5000-5002", "exposed_ports", {"80/tcp": {}, "90/udp": {}, "5000/tcp": {}, "5001/tcp": {}, "5002/tcp": {}}),
        ('VOLUME ["/a", "/b"]', "volumes", {"/a": {}, "/b": {}}),
        ("VOLUME /a /b", "volumes", {"/a": {}, "/b": {}}),
        ("USER me:$A", "user", "me:1"),
        ("WORKDIR rel/../x", "working_dir", "/srv/x"),
        ("WORKDIR /abs", "working_dir", "/abs"),
        ("STOPSIGNAL SIGINT", "stop_signal", "SIGINT"),
        ("ONBUILD RUN x", "on_build", ["RUN x"]),
        ("HEALTHCHECK NONE", "healthcheck", Healthcheck(test=["NONE"])),
        (
            "HEALTHCHECK --interval=1m30s --retries=4 CMD curl x",
            "healthcheck",
            Healthcheck(test=["CMD-SHELL", "curl x"], interval=90 * 10**9, retries=4),
        ),
        ('HEALTHCHECK CMD ["a"]', "healthcheck", Healthcheck(test=["CMD", "a"])),
    ],
)  # fmt: skip
def test_instruction(change: str, field: str, value: object) -> None:
    assert getattr(changed(change), field) == value


def test_lines_comments_and_continuations() -> None:
    config = changed("# nothing\nUSER a\n\nCMD one \\\n two")
    assert config.user == "a"
    assert config.cmd == ["/bin/sh", "-c", "one   two"]


@pytest.mark.parametrize(
    "change",
    [
        "RUN x", "COPY a b", "FROM x", "CMD", "ENV", "ENV A", "ENV A=1 B", "ENV A='open", "ENV A=${", "EXPOSE x", "EXPOSE 0",
        "EXPOSE 70000", "EXPOSE 9-8", "ONBUILD FROM x", "ONBUILD ONBUILD RUN x", "HEALTHCHECK", "HEALTHCHECK x",
        "HEALTHCHECK --interval=x CMD y", "HEALTHCHECK --what=1 CMD y", "HEALTHCHECK --interval=1ns CMD y", 'VOLUME [""]',
    ],
)  # fmt: skip
def test_refused(change: str) -> None:
    with pytest.raises(InvalidArgument):
        changed(change)
