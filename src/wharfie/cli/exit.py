# SPDX-License-Identifier: Apache-2.0
"""Exit codes: 125 the engine could not, 126 not executable, 127 not found, 128+n ended by a signal, else the command's."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.errdefs import WharfieError

ENGINE, NOT_EXECUTABLE, NOT_FOUND, SIGNALLED = 125, 126, 127, 128


def of_start_error(error: WharfieError) -> int:
    """The exit code for a container that could not start.

    wharfied says it in the field `exit_code`. dockerd has no field for it and clients are left to read its text, so that
    is done for its sake alone, with the words that runc and crun use.
    """
    code = error.fields.get("exit_code")
    if isinstance(code, int):
        return code
    text = error.message
    if any(
        words in text
        for words in ("executable file not found", "no such file or directory", "system cannot find the file")
    ):
        return NOT_FOUND
    if any(words in text for words in ("permission denied", "is a directory", "exec format error")):
        return NOT_EXECUTABLE
    return ENGINE
