# SPDX-License-Identifier: Apache-2.0
"""Debian's stock kernel in a QEMU guest: the engine on a host other than this one."""
