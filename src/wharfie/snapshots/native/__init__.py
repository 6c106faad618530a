# SPDX-License-Identifier: Apache-2.0
"""The `native` snapshotter: every snapshot is a whole tree, copied. Needs the space, and no more than a file system.

    <root>/layers/<hex of diff_id>.tar    the verified tar of a layer
    <root>/entries/<hash>/fs/             a snapshot: a copy of its parent with the layer applied

Works where overlayfs and EROFS do not: on tmpfs, on overlayfs itself, on network file systems.
"""
