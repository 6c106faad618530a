# SPDX-License-Identifier: Apache-2.0
"""The shim: one process per container, its parent, keeper of its stdio, log and exit status. It outlives the daemon.

One thread, one epoll loop (`loop`). `serve` is what the zygote forks; `main` is `containerd-shim-wharfie-v1`.

    service   the task API (containerd.task.v2) on the ttrpc socket
    private   what that API has no words for (attach, logs, exec with descriptors), on a SEQPACKET socket beside it
    process   one process: the container's first or an exec
    streams   its stdio: container <-> log, clients, fifos
    sinks     who gets output: attached clients, followers of the log, fifos and files
    engines   runtime name -> runtime engine
    events    publishing to containerd or the daemon
    sweep     what is to be done after a shim that was killed

Slow readers: an attached client that cannot keep up is served from the log file until it has caught up, so it holds
nothing up. Where the log cannot be read back (none, json-file, an exec) it holds the container up, as with Docker, after
1 MiB; one that takes nothing for 30 s then is dropped. A fifo of containerd holds the container up without an end.
"""
