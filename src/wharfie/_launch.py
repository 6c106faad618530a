# SPDX-License-Identifier: Apache-2.0
"""Started by the shell stubs as `python -SI _launch.py LIB SITE PROGRAM ARGS…`; puts the package on the path and runs it."""

import sys

_lib, _site, _program = sys.argv[1:4]
sys.path[:0] = [_lib] if _lib == _site else [_lib, _site]
sys.argv[:4] = [_program]

if _program == "wharfied":
    from wharfie.daemon.main import main
elif _program == "wharfie-oci":
    from wharfie.runtime.cli.main import main
elif _program == "containerd-shim-wharfie-v1" and sys.platform == "linux":
    from wharfie.shim.main import main
else:
    from wharfie.cli.main import main
sys.exit(main())
