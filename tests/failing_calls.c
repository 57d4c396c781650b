/* Makes one system call of a process fail: cc -shared -fPIC, LD_PRELOAD.

   FAIL_UNDER   only calls on files below this folder count
   FAIL_CALL    the call: create, write, sync, rename, mkdir or unlink; or cut,
                at which the process is killed
   FAIL_NUMBER  which of these calls fails, from 1; with cut, which of all; with
                3+, the third and all after it
   FAIL_CLOCK   seconds by which the process's clock is fast
   FAIL_ERRNO   the number of the error
   FAIL_LOG     a file to which the call, its number and its path (and the old
                one) are appended; with FAIL_NUMBER=0 or cut, those of all calls

   libfiu does the same without looking at paths: sockets and pipes would fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static _Atomic int number[6], total;
static const char *const names[6] = {"create", "write", "sync",
                                     "rename", "mkdir", "unlink"};
enum { CREATE, WRITE, SYNC, RENAME, MKDIR, UNLINK };

static void log_call(int call, int n, const char *path, const char *old) {
  const char *file = getenv("FAIL_LOG");
  char line[2 * PATH_MAX + 40];
  if (!file) return;
  int size = snprintf(line, sizeof line, "%s %d %s%s%s\n", names[call], n, path,
                      old ? "\t" : "", old ? old : "");
  int log = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND,
                    0644);
  syscall(SYS_write, log, line, size);
  syscall(SYS_close, log);
}

/* Whether this call fails; sets errno. */
static int fails_with(int call, int folder, const char *path, const char *old) {
  const char *under = getenv("FAIL_UNDER"), *which = getenv("FAIL_CALL");
  char link[64], full[PATH_MAX], joined[2 * PATH_MAX];
  int before = errno;
  if (!under || !*under) return 0;
  if (!path || (*path != '/' && folder != AT_FDCWD)) {
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t size = readlink(link, full, sizeof full - 1);
    errno = before;
    if (size < 0) return 0;
    full[size] = 0;
    if (path) {
      snprintf(joined, sizeof joined, "%s/%s", full, path);
      path = joined;
    } else {
      path = full;
    }
  } else if (*path != '/') {
    if (!getcwd(full, sizeof full)) return 0;
    snprintf(joined, sizeof joined, "%s/%s", full, path);
    path = joined;
  }
  if (strncmp(path, under, strlen(under))) return 0;
  int n = atomic_fetch_add(&number[call], 1) + 1;
  const char *wanted = getenv("FAIL_NUMBER"), *error = getenv("FAIL_ERRNO");
  if (!wanted) return 0;
  int at = atoi(wanted);
  int cut = which && !strcmp(which, "cut");
  if (cut && atomic_fetch_add(&total, 1) + 1 == at) raise(SIGKILL);
  if (!at || cut) log_call(call, n, path, old);
  errno = before;
  int on = strchr(wanted, '+') != NULL;
  if (!at || (on ? n < at : n != at) || !which || strcmp(which, names[call])) return 0;
  log_call(call, n, path, old);
  errno = error ? atoi(error) : EIO;
  return 1;
}

static int fails(int call, int folder, const char *path) {
  return fails_with(call, folder, path, NULL);
}

#define REAL(name) \
  static __typeof__(name) *real; \
  if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, #name)

#define MODE(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list more; \
    va_start(more, flags); \
    mode = va_arg(more, mode_t); \
    va_end(more); \
  }

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    MODE(flags) \
    REAL(name); \
    if ((flags & O_CREAT) && fails(CREATE, AT_FDCWD, path)) return -1; \
    return real(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int folder, const char *path, int flags, ...) { \
    MODE(flags) \
    REAL(name); \
    if ((flags & O_CREAT) && fails(CREATE, folder, path)) return -1; \
    return real(folder, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
  FILE *name(const char *path, const char *mode) { \
    REAL(name); \
    if (*mode != 'r' && fails(CREATE, AT_FDCWD, path)) return NULL; \
    return real(path, mode); \
  }
FOPEN(fopen)
FOPEN(fopen64)

#define FAILING(type, name, call, folder, path, bad, arguments, ...) \
  type name(__VA_ARGS__) { \
    REAL(name); \
    if (fails(call, folder, path)) return bad; \
    return real arguments; \
  }
FAILING(ssize_t, write, WRITE, fd, NULL, -1, (fd, data, size), int fd,
        const void *data, size_t size)
FAILING(ssize_t, writev, WRITE, fd, NULL, -1, (fd, parts, n), int fd,
        const struct iovec *parts, int n)
FAILING(ssize_t, pwrite, WRITE, fd, NULL, -1, (fd, data, size, at), int fd,
        const void *data, size_t size, off_t at)
FAILING(ssize_t, pwrite64, WRITE, fd, NULL, -1, (fd, data, size, at), int fd,
        const void *data, size_t size, off64_t at)
FAILING(size_t, fwrite, WRITE, fileno(file), NULL, 0, (data, size, n, file),
        const void *data, size_t size, size_t n, FILE *file)
FAILING(int, ftruncate, WRITE, fd, NULL, -1, (fd, size), int fd, off_t size)
FAILING(int, ftruncate64, WRITE, fd, NULL, -1, (fd, size), int fd, off64_t size)
FAILING(int, fsync, SYNC, fd, NULL, -1, (fd), int fd)
FAILING(int, fdatasync, SYNC, fd, NULL, -1, (fd), int fd)
#define RENAMING(name, folder, arguments, ...) \
  int name(__VA_ARGS__) { \
    REAL(name); \
    if (fails_with(RENAME, folder, new, old)) return -1; \
    return real arguments; \
  }
RENAMING(rename, AT_FDCWD, (old, new), const char *old, const char *new)
RENAMING(renameat, at, (from, old, at, new), int from, const char *old, int at,
         const char *new)
RENAMING(renameat2, at, (from, old, at, new, flags), int from, const char *old,
         int at, const char *new, unsigned flags)
FAILING(int, mkdir, MKDIR, AT_FDCWD, path, -1, (path, mode), const char *path,
        mode_t mode)
FAILING(int, mkdirat, MKDIR, folder, path, -1, (folder, path, mode), int folder,
        const char *path, mode_t mode)
FAILING(int, unlink, UNLINK, AT_FDCWD, path, -1, (path), const char *path)
FAILING(int, unlinkat, UNLINK, folder, path, -1, (folder, path, flags),
        int folder, const char *path, int flags)
FAILING(int, rmdir, UNLINK, AT_FDCWD, path, -1, (path), const char *path)

int clock_gettime(clockid_t clock, struct timespec *now) {
  REAL(clock_gettime);
  const char *fast = getenv("FAIL_CLOCK");
  int result = real(clock, now);
  if (fast && clock == CLOCK_REALTIME) now->tv_sec += atol(fast);
  return result;
}
