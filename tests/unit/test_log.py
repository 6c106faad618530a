# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import io
import json
import logging

import pytest

from wharfie import log


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password=hunter2 user=me", "password=*** user=me"),
        ('{"Password": "a b", "user": "me"}', '{"Password": *** "user": "me"}'.replace("*** ", "***, ")),
        ("Authorization: Bearer abc.def-ghi", "Authorization: ***"),
        ("X-Registry-Auth: eyJ1c2VybmFtZSI6", "X-Registry-Auth: ***"),
        ("sent Basic dXNlcjpwYXNzd29yZA== there", "sent Basic *** there"),
        ("pull https://me:s3cret@host/v2/", "pull https://me:***@host/v2/"),
        ("MYSQL_ROOT_PASSWORD=x MY_TOKEN='a b'", "MYSQL_ROOT_PASSWORD=*** MY_TOKEN=***"),
        ("nothing to hide: sha256:abc", "nothing to hide: sha256:abc"),
    ],
)
def test_secrets_are_scrubbed(text, shown):
    assert log.scrub(text) == shown


def test_context_is_bound_and_crosses_tasks():
    async def inner():
        return dict(log.bound())

    async def run():
        with log.bind(request_id="r1"), log.bind(container_id="c1"):
            return await asyncio.create_task(inner())

    assert asyncio.run(run()) == {"request_id": "r1", "container_id": "c1"}
    assert dict(log.bound()) == {}


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no field 'containerId'"), log.bind(containerId="x"):
        pass


@pytest.mark.parametrize("as_json", [False, True])
def test_formatter(as_json):
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(log.formatter(as_json=as_json))
    logger = logging.getLogger("wharfie.test")
    logger.addHandler(handler)
    logger.propagate = False
    with log.bind(container_id="c1"):
        logger.warning('it "broke"\nbadly: token=%s', "abc", extra=log.fields(duration_s=0.5, path="/a b"))
    logger.removeHandler(handler)
    line = out.getvalue()
    assert line.count("\n") == 1
    if as_json:
        document = json.loads(line)
        assert document["container_id"] == "c1"
        assert document["msg"] == 'it "broke"\nbadly: token=***'
    else:
        assert (
            ' level=warning msg="it \\"broke\\"\\nbadly: token=***" container_id=c1 duration_s=0.500000 path="/a b"'
            in line
        )
