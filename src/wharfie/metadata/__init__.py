# SPDX-License-Identifier: Apache-2.0
"""Metadata: one SQLite database for every namespace, and garbage collection over its references."""
