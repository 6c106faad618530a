# SPDX-License-Identifier: Apache-2.0
"""The Linux runtime: an OCI bundle becomes a contained process, by this program alone.

    plan        config.json, checked and turned into numbers (no side effects)
    process     the same for one process document
    engine      LinuxEngine: the parent's side of every operation
    prepare     parent: detached mounts, /dev, binds -> descriptors for the child
    child       child: namespaces, mounts, pivot_root, until the gate opens
    attach      child: the mounts of the spec, by descriptor
    finish      child: identity, capabilities, seccomp, execve
    channel     messages and descriptors between the two
    hooks       OCI hooks
    checkpoint  parent: processes -> images on disk, by the `criu` program
    restore     parent: images -> processes in a container made anew
    criu        one run of that program
    cgroups/    one manager table for v1, v2 and hybrid hosts
    seccomp     profile -> BPF

The parent (a shim or `wharfie-oci`) stays in the host's namespaces and makes whatever needs the host: it opens sources,
builds the root file system, writes id maps and cgroups. The child is born into new namespaces, gets finished mounts as
descriptors and attaches them. Nothing is imported, and no path of the host is used, after the root has changed.
"""
