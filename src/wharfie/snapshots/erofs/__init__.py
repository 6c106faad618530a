# SPDX-License-Identifier: Apache-2.0
"""The `erofs` snapshotter: each layer is one EROFS file, written in one pass while it is inflated and hashed.

    <root>/layers/<hex of diff_id>.erofs   the layer;  <hex>.json beside it says what was learnt on the way
    <state>/l/<n>                          the mount of one such file in the daemon's process, shared by all containers

Layout of a file ("aligned"): [4096 bytes: superblock][file data, each file on a block][inodes][directory blocks]. The
superblock is written last. Uncompressed, 4 KiB blocks, features of Linux 5.4 only. An image is a pure function of its
tar; never is one mounted that came from somewhere else.

`image` lays inodes out and writes them, `build` is the one pass, `reader` looks things up in a written file, `attach`
mounts them.

"""
