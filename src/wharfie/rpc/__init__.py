# SPDX-License-Identifier: Apache-2.0
"""Framed calls: ttrpc (containerd's small gRPC) over unix sockets.

`frames` cuts a byte stream into frames. `status` maps errdefs to gRPC status codes and back. `server` is one
connection of a server inside somebody's epoll loop; `client` is the asyncio client; `blocking` a client for programs
without a loop. A call is unary: service, method, a message each way.
"""
