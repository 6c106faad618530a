# SPDX-License-Identifier: Apache-2.0
"""The client of the Docker Engine API that `wharfie` (and later the SDK) stands on.

In come an address (`unix://…`, `tcp://…`) and typed calls, out come answers, streams and `errdefs` errors rebuilt from
what the engine said. It speaks only the public API, so it drives wharfied and dockerd alike.

    address.py      which engine is meant: flags, environment, default
    connect.py      a connected socket; starts wharfied when the default engine is not there (launch.py)
    http.py         HTTP/1.1 over that socket: keep-alive, chunked bodies, upgrades
    engine.py       Client: one call per request, error answers become exceptions
    frames.py       the multiplexed stdout/stderr stream
    jsontext.py     JSON without the `json` package (6 ms at start)
    credentials.py  the user's config.json and credential helpers

Everything here is on the start-up path of every command: no dataclasses, no `socket`, `json`, `re`, `typing`, `logging`
at run time (style 2.2; tests/cli/test_startup.py holds the list).
"""
