# SPDX-License-Identifier: Apache-2.0
"""The command line `wharfie`: flags in, requests to the engine, tables and streams out.

    main.py       start, global flags, dispatch, errors to exit codes
    commands.py   every command's name -> "module:OBJECT", imported when chosen
    command.py    what a command is; flags.py parses by its table, usage.py prints its help
    <noun>/       one module per verb or family of verbs
    format/       tables, Go templates, sizes and times
    terminal.py, session.py, progress.py   what is on the other side of the streams

Only this package knows flags. A module-level import here is paid by every command: see tests/cli/test_startup.py.
"""
