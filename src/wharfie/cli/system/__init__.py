# SPDX-License-Identifier: Apache-2.0
"""Commands on the engine as a whole, and on registries' accounts."""
