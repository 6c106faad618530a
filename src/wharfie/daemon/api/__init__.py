# SPDX-License-Identifier: Apache-2.0
"""Docker's Engine API over HTTP, one module per resource; the only place that knows its JSON and its paths.

A resource module has `ROUTES`, a tuple of `router.Route(method, path, handler)`; `builtins.ROUTES` names the module.
A handler is `async def h(call: Call) -> StreamResponse`: `call.engine`, `call.namespace`, `call.version`,
`call.params["name"]` (path), `call.query`, `call.flag("all")`, `await call.body()`; it answers by `call.json(value)`,
`call.empty()` or its own response, and raises errdefs errors, which `status` turns into HTTP.
"""
