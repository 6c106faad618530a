# SPDX-License-Identifier: Apache-2.0
"""What integration tests stand on: a real registry, real images, a running engine, and a leak check."""
