# SPDX-License-Identifier: Apache-2.0
"""System calls that the default seccomp profile lets through, by what they are for. Data only; see `oci.seccomp`.

The set is what the field's default profiles agree on; old and 32-bit spellings stand beside the new ones because the
profile also covers an architecture's compat modes. What is left out is left out on purpose: io_uring_* (a second,
unfiltered way into the kernel), userfaultfd, keyctl and friends (keys are not namespaced), kexec, swap, nfsservctl,
and everything that CONDITIONAL gives only with a capability.
"""

from __future__ import annotations

_IO = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek close close_range
dup dup2 dup3 fcntl fcntl64 ioctl pipe pipe2 splice tee vmsplice sendfile sendfile64 copy_file_range readahead
fsync fdatasync sync syncfs sync_file_range fadvise64 fadvise64_64 fallocate flock
io_setup io_submit io_getevents io_pgetevents io_pgetevents_time64 io_cancel io_destroy
poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_settime64 timerfd_gettime timerfd_gettime64
inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark
"""

_FILES = """
open openat openat2 creat access faccessat faccessat2 stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx
statfs statfs64 fstatfs fstatfs64 statmount listmount getdents getdents64 getcwd chdir fchdir
mkdir mkdirat mknod mknodat rmdir link linkat symlink symlinkat unlink unlinkat rename renameat renameat2
readlink readlinkat truncate truncate64 ftruncate ftruncate64 umask
chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 fchownat lchown lchown32
utime utimes futimesat utimensat utimensat_time64
getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat
listxattr llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat
name_to_handle_at file_getattr file_setattr
"""

_MEMORY = """
brk mmap mmap2 munmap mremap mprotect madvise msync mincore mlock mlock2 mlockall munlock munlockall mseal
memfd_create memfd_secret map_shadow_stack membarrier remap_file_pages cachestat
pkey_alloc pkey_free pkey_mprotect shmget shmat shmctl shmdt
"""

_PROCESSES = """
fork vfork execve execveat exit exit_group wait4 waitid waitpid kill tkill tgkill pidfd_open pidfd_send_signal
process_mrelease prctl seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
capget capset getpid getppid gettid getpgid getpgrp getsid setpgid setsid
getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32
getresuid getresuid32 getresgid getresgid32 getgroups getgroups32
setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid setresuid32 setresgid setresgid32
setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32
getpriority setpriority getrlimit setrlimit ugetrlimit prlimit64 getrusage times uname sysinfo ioprio_get ioprio_set
sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam
sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min
sched_rr_get_interval sched_rr_get_interval_time64 getcpu getrandom restart_syscall
arch_prctl set_tid_address set_robust_list get_robust_list get_thread_area set_thread_area rseq uretprobe uprobe
futex futex_time64 futex_wait futex_wake futex_waitv futex_requeue
"""

_SIGNALS = """
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaction sigaltstack sigpending sigprocmask sigreturn sigsuspend signal pause
"""

_TIME = """
time gettimeofday nanosleep alarm getitimer setitimer adjtimex
clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep clock_nanosleep_time64
clock_adjtime clock_adjtime64
timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
"""

_NETWORK_AND_IPC = """
bind connect listen accept accept4 getsockname getpeername getsockopt setsockopt shutdown socketpair
send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64
ipc msgget msgsnd msgrcv msgctl semget semop semctl semtimedop semtimedop_time64
mq_open mq_unlink mq_notify mq_getsetattr mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64
"""

ALLOWED = tuple(f"{_IO} {_FILES} {_MEMORY} {_PROCESSES} {_SIGNALS} {_TIME} {_NETWORK_AND_IPC}".split())
"""For everybody. socket, socketcall, clone, clone3 and personality look at their arguments: `oci.seccomp`."""

BY_CAPABILITY: dict[str, tuple[str, ...]] = {
    "CAP_DAC_READ_SEARCH": ("open_by_handle_at",),
    "CAP_SYS_ADMIN": (
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie",
        "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount", "mount_setattr", "move_mount",
        "open_tree", "open_tree_attr", "perf_event_open", "quotactl", "quotactl_fd", "setdomainname", "sethostname",
        "setns", "syslog", "umount", "umount2", "unshare",
    ),
    "CAP_SYS_BOOT": ("reboot",),
    "CAP_SYS_CHROOT": ("chroot",),
    "CAP_SYS_MODULE": ("delete_module", "init_module", "finit_module"),
    "CAP_SYS_PACCT": ("acct",),
    "CAP_SYS_PTRACE": (
        "kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace",
    ),
    "CAP_SYS_RAWIO": ("iopl", "ioperm"),
    "CAP_SYS_TIME": ("settimeofday", "stime", "clock_settime", "clock_settime64"),
    "CAP_SYS_TTY_CONFIG": ("vhangup",),
    "CAP_SYS_NICE": ("get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"),
    "CAP_SYSLOG": ("syslog",),
    "CAP_BPF": ("bpf",),
    "CAP_PERFMON": ("perf_event_open",),
}  # fmt: skip

BY_ARCHITECTURE: dict[str, tuple[str, ...]] = {
    "386": ("modify_ldt",),
    "amd64": ("modify_ldt",),
    "arm": ("arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls"),
    "arm64": ("arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls"),
    "ppc64le": ("sync_file_range2", "swapcontext"),
    "riscv64": ("riscv_flush_icache", "riscv_hwprobe"),
    "s390x": ("s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"),
}

PTRACE_SINCE_4_8 = ("ptrace", "process_vm_readv", "process_vm_writev")
"""Before 4.8 a tracer could change a call after the filter had passed it."""
