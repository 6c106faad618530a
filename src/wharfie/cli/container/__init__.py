# SPDX-License-Identifier: Apache-2.0
"""Commands on containers. `create` and `run` share flags.py (the table) and body.py (flags to what the engine reads)."""
