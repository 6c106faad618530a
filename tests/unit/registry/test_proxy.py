# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from wharfie.registry.proxy import proxy_for

BOTH = {"HTTPS_PROXY": "http://proxy:3128", "http_proxy": "plain:80"}


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxy"),
    [
        ("https://r.example/v2/", "", "http://proxy:3128"),
        ("http://r.example/v2/", "", "http://plain:80"),
        ("http://localhost:5000/", "", None),
        ("http://127.0.0.2:5000/", "", None),
        ("http://[::1]:5000/", "", None),
        ("https://r.example/", "*", None),
        ("https://r.example/", "other, r.example", None),
        ("https://a.r.example/", "r.example", None),
        ("https://a.r.example/", ".r.example", None),
        ("https://a.r.example/", "*.r.example", None),
        ("https://notr.example/", "r.example", "http://proxy:3128"),
        ("https://r.example:8443/", "r.example:8443", None),
        ("https://r.example/", "r.example:8443", "http://proxy:3128"),
        ("https://r.example/", "r.example:443", None),
        ("https://10.1.2.3/", "10.0.0.0/8", None),
        ("https://11.1.2.3/", "10.0.0.0/8", "http://proxy:3128"),
        ("https://10.1.2.3/", "2.3", "http://proxy:3128"),
        ("https://10.1.2.3/", "10.1.2.3", None),
        ("https://[fd00::1]/", "fd00::/8", None),
        ("https://r.example/", "nonsense/99,,", "http://proxy:3128"),
    ],
)
def test_proxy_for(url: str, no_proxy: str, proxy: str | None) -> None:
    assert proxy_for(url, {**BOTH, "NO_PROXY": no_proxy}) == proxy


def test_no_variables() -> None:
    assert proxy_for("https://r.example/", {}) is None
