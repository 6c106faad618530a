# SPDX-License-Identifier: Apache-2.0
"""What `logs --details` puts before each line: labels and variables that the log options name."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from wharfie.daemon.services.containers_records import Document


def log_details(document: Document) -> str:
    """`key=value,…` sorted, empty where no option names any."""
    opts = document.log_opts
    labels, env = document.config.labels or {}, dict(e.partition("=")[::2] for e in document.config.env or ())
    found = {k: labels[k] for k in opts.get("labels", "").split(",") if k in labels}
    found |= {k: env[k] for k in opts.get("env", "").split(",") if k in env}
    return ",".join(f"{quote(k)}={quote(v)}" for k, v in sorted(found.items()))
