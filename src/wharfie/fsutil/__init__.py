# SPDX-License-Identifier: Apache-2.0
"""Files: atomic writes, locks, and walking beneath a root that cannot be left.

This is the only place where paths of a container and paths of the host meet: everything that follows a path somebody
else controls goes through `beneath`.
"""
