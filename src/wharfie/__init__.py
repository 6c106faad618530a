# SPDX-License-Identifier: Apache-2.0
"""Wharfie: a complete container engine in Python."""

__version__ = "0.1.0"
