# SPDX-License-Identifier: Apache-2.0
"""The `overlay` snapshotter: each layer is extracted to a directory, overlayfs stacks them.

    <root>/layers/<hex of diff_id>/     the layer in overlayfs's own form: whiteouts are devices 0/0, opaque is an xattr

`extract` is the extractor, also used by `native`.
"""
