# SPDX-License-Identifier: Apache-2.0
"""Protobuf messages of the shim API, as tables: field number -> (name, kind). Read by `codec`, no generated code.

Modules follow containerd's packages: `base`, `task` (containerd.task.v2), `events`, `metrics`
(io.containerd.cgroups.v1), `ttrpc` (request, response, status). Why not google.protobuf: docs/adr/0020-shim-wire.md.
"""
