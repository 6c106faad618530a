# SPDX-License-Identifier: Apache-2.0
"""The kernel, and the only ctypes on libc. Wrappers are a few lines each; constants keep their header names.

    libc        the loaded library, `syscall()` and the one raise helper
    mountapi    open_tree move_mount fsopen fsconfig fsmount mount_setattr, and mount(2) umount2 pivot_root
    openat2     opening beneath a root
    namespaces  unshare setns clone3, id maps, user namespaces by descriptor
    process     pidfd, prctl, close_range, personality, priorities
    caps        capability sets
    seccomp     seccomp(2)
    bpf         device programs of cgroup v2
    pty         terminals
    dbus        calls and signals of the service manager's bus

Every failure is an OSError that names the call and the object. Nothing is loaded before the first call, so that every
module here can be imported anywhere.
"""
