# SPDX-License-Identifier: Apache-2.0
"""Services of the daemon, one module per noun; what the APIs call."""
