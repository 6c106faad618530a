# SPDX-License-Identifier: Apache-2.0
"""The zygote: one small thread with everything imported that a shim needs, forking named entries on request.

The daemon starts it (`tasks.zygote`) from a sealed copy of the interpreter and talks to it over a SEQPACKET socket:

    request   JSON {"entry": name, "title": text, "result": bool, "log": path}, newline, args; descriptors beside it
    answer    JSON {"pid": n} and a pidfd, or {"error": {…}}

A fork that came about always answers. With `result`, the first descriptor is a pipe that gets the function's return
value, framed (`entries`). Arguments too long for a message come in a file, the last descriptor ("args_beside"). The zygote ends when the daemon's end of the socket closes; its children live on.
"""
