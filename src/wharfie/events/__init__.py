# SPDX-License-Identifier: Apache-2.0
"""Events: the exchange that everything in the daemon publishes to and that waits, API streams and policies listen to.

An event is a containerd envelope from day one (decisions 6): time, namespace, topic, payload. Docker's events are a
view of them (`daemon/services/events_docker.py`); what that view needs and the payload has not (name, image, labels)
comes along in `attributes`. `exchange.Exchange` keeps the last ones in memory for clients that ask for the past.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Envelope(NamedTuple):
    """`topic` as containerd writes it: `/tasks/exit`. `payload`: fields of the message that `type_name` names.

    `subject`: id of what it is about. `attributes`: what people want to see of it.
    """

    timestamp_ns: int
    namespace: str
    topic: str
    payload: dict[str, Any]
    subject: str = ""
    attributes: dict[str, str] = {}  # noqa: RUF012
