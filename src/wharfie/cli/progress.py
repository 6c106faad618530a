# SPDX-License-Identifier: Apache-2.0
"""Pull, push and load progress: bars on a terminal, plain lines elsewhere."""
