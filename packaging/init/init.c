/* SPDX-License-Identifier: Apache-2.0
 * The program behind `run --init`: `init -- PROGRAM ARGS…` as process 1 of a container.
 *
 * It starts PROGRAM in a process group of its own (in the foreground if there is a terminal), passes every signal on to
 * it, buries every orphan, and ends with PROGRAM's status: its exit code, 128+n for a signal, 127 if it is not found,
 * 126 if it cannot be run. No library, no data section, position independent: packaging/init/build makes of it the
 * bytes in src/wharfie/daemon/services/init_code.py.
 */
typedef unsigned long ulong;

#if defined(__x86_64__)
enum { READ = 0, WRITE = 1, SIGPROCMASK = 14, IOCTL = 16, FORK = 57, EXECVE = 59, EXIT = 60, WAIT4 = 61, KILL = 62,
       SETPGID = 109, SIGTIMEDWAIT = 128, PRCTL = 157, GETPID = 39 };

static inline long sys(long n, long a, long b, long c, long d) {
  long r;
  register long r10 __asm__("r10") = d;
  __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
  return r;
}
static inline long fork_(void) { return sys(FORK, 0, 0, 0, 0); }
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call run\n");
#elif defined(__aarch64__)
enum { IOCTL = 29, WRITE = 64, EXIT = 93, KILL = 129, SIGPROCMASK = 135, SIGTIMEDWAIT = 137, SETPGID = 154, PRCTL = 167,
       GETPID = 172, CLONE = 220, EXECVE = 221, WAIT4 = 260 };

static inline long sys5(long n, long a, long b, long c, long d, long e) {
  register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c,
                x3 __asm__("x3") = d, x4 __asm__("x4") = e;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
  return x0;
}
static inline long sys(long n, long a, long b, long c, long d) { return sys5(n, a, b, c, d, 0); }
static inline long fork_(void) { return sys5(CLONE, 17, 0, 0, 0, 0); }
__asm__(".globl _start\n_start: mov x0, sp\n bl run\n");
#endif

enum { ENOENT = 2, EINTR = 4, EACCES = 13, ENOTDIR = 20, SIGCHLD = 17, TIOCSPGRP = 0x5410, PR_SET_CHILD_SUBREAPER = 36 };

static ulong length(const char *s) {
  ulong n = 0;
  while (s[n]) n++;
  return n;
}

static void say(const char *program, int missing) {
  char line[512];
  ulong n = 0, i;
  const char head[] = {'i', 'n', 'i', 't', ':', ' '};
  for (i = 0; i < sizeof head; i++) line[n++] = head[i];
  for (i = 0; program[i] && n < 400; i++) line[n++] = program[i];
  const char none[] = {':', ' ', 'n', 'o', 't', ' ', 'f', 'o', 'u', 'n', 'd', '\n'};
  const char deny[] = {':', ' ', 'c', 'a', 'n', 'n', 'o', 't', ' ', 'b', 'e', ' ', 'r', 'u', 'n', '\n'};
  if (missing) for (i = 0; i < sizeof none; i++) line[n++] = none[i];
  else for (i = 0; i < sizeof deny; i++) line[n++] = deny[i];
  sys(WRITE, 2, (long)line, n, 0);
}

/* execvp: a name with a slash is a path, any other is looked up in PATH. Comes back only if it failed. */
static long search(char **argv, char **envp) {
  char path[4096];
  const char *name = argv[0], *dirs = 0;
  long worst = -ENOENT;
  ulong size = length(name);
  for (const char *p = name; *p; p++)
    if (*p == '/') return sys(EXECVE, (long)name, (long)argv, (long)envp, 0);
  for (char **e = envp; *e; e++)
    if ((*e)[0] == 'P' && (*e)[1] == 'A' && (*e)[2] == 'T' && (*e)[3] == 'H' && (*e)[4] == '=') { dirs = *e + 5; break; }
  while (dirs) {
    ulong n = 0;
    while (dirs[n] && dirs[n] != ':') n++;
    if (n + size + 2 <= sizeof path) {
      ulong i, at = 0;
      for (i = 0; i < n; i++) path[at++] = dirs[i];
      if (n) path[at++] = '/';
      for (i = 0; i <= size; i++) path[at++] = name[i];
      long r = sys(EXECVE, (long)path, (long)argv, (long)envp, 0);
      if (r != -ENOENT && r != -ENOTDIR) worst = r;
    }
    dirs = dirs[n] ? dirs + n + 1 : 0;
  }
  return worst;
}

__attribute__((used, noreturn)) void run(long *stack) {
  long argc = stack[0];
  char **argv = (char **)(stack + 1), **envp = argv + argc + 1;
  ulong all = ~0ul, before = 0;
  if (argc < 3) for (;;) sys(EXIT, 127, 0, 0, 0);
  argv += 2;
  sys(SIGPROCMASK, 2, (long)&all, (long)&before, 8);
  sys(PRCTL, PR_SET_CHILD_SUBREAPER, 1, 0, 0);
  long child = fork_();
  if (child == 0) {
    int group = (int)sys(GETPID, 0, 0, 0, 0);
    sys(SETPGID, 0, 0, 0, 0);
    sys(IOCTL, 0, TIOCSPGRP, (long)&group, 0);
    sys(SIGPROCMASK, 2, (long)&before, 0, 8);
    long r = search(argv, envp);
    int missing = r == -ENOENT || r == -ENOTDIR;
    say(argv[0], missing);
    for (;;) sys(EXIT, missing ? 127 : 126, 0, 0, 0);
  }
  if (child < 0) for (;;) sys(EXIT, 126, 0, 0, 0);
  for (;;) {
    long signal = sys(SIGTIMEDWAIT, (long)&all, 0, 0, 8);
    if (signal > 0 && signal != SIGCHLD) sys(KILL, child, signal, 0, 0);
    int status;
    long gone;
    while ((gone = sys(WAIT4, -1, (long)&status, 1, 0)) > 0)
      if (gone == child) {
        int number = status & 127;
        for (;;) sys(EXIT, number ? 128 + number : status >> 8 & 255, 0, 0, 0);
      }
  }
}
