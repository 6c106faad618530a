# SPDX-License-Identifier: Apache-2.0
"""From the engine's answers to text: tables.py, template.py (Go templates), human.py (sizes, times, names)."""
