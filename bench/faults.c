/* Makes the k-th durable step of a process fail: for bench/faults.py, which compiles it and loads it before libc.
 *
 * A step is a write, a flush, a truncation, a renaming or a removal below one folder. All that Python, SQLite and the
 * libraries in Rust do to files there comes through here, so no step can be forgotten. Nothing happens until it is
 * armed: arm(how, at, folder). Before the at-th step of that kind:
 *   1  the process is killed
 *   2  the same, but half of a write is done first, and any other step whole
 *   3  a flush fails with EIO, once
 *   4  a write fails with ENOSPC, once
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, KILL, TORN, FLUSH_FAILS, WRITE_FAILS };
enum { WRITE = 1, FLUSH = 2, OTHER = 4 };

static char folder[PATH_MAX];
static volatile int how = OFF;
static volatile long at, seen;

void arm(int a_how, long an_at, const char *a_folder) {
  strncpy(folder, a_folder, sizeof folder - 1);
  at = an_at;
  seen = 0;
  how = a_how;
}

long steps(void) { return seen; }

static void die(void) {
  syscall(SYS_kill, getpid(), SIGKILL);
  for (;;) pause();
}

static int below(const char *path) { return strncmp(path, folder, strlen(folder)) == 0; }

static int below_fd(int fd) {
  char name[64], path[PATH_MAX];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(name, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return below(path);
}

static int below_at(int fd, const char *path) { return path[0] == '/' || fd == AT_FDCWD ? below(path) : below_fd(fd); }

/* Whether this is the step. Kills count every kind, failures their own. */
static int due(int kind) {
  if (how == FLUSH_FAILS && kind != FLUSH) return 0;
  if (how == WRITE_FAILS && kind != WRITE) return 0;
  return __sync_add_and_fetch(&seen, 1) == at;
}

#define BEFORE(kind, inside, error, half) \
  if (how != OFF && (inside) && due(kind)) { \
    if (how == KILL) die(); \
    if (how == TORN) { half; die(); } \
    errno = (error); \
    return -1; \
  }

ssize_t write(int fd, const void *data, size_t n) {
  BEFORE(WRITE, below_fd(fd), ENOSPC, syscall(SYS_write, fd, data, n / 2));
  return syscall(SYS_write, fd, data, n);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t to) {
  BEFORE(WRITE, below_fd(fd), ENOSPC, syscall(SYS_pwrite64, fd, data, n / 2, to));
  return syscall(SYS_pwrite64, fd, data, n, to);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t to) { return pwrite(fd, data, n, to); }

ssize_t writev(int fd, const struct iovec *pieces, int n) {
  BEFORE(WRITE, below_fd(fd), ENOSPC, syscall(SYS_writev, fd, pieces, n / 2));
  return syscall(SYS_writev, fd, pieces, n);
}

ssize_t sendfile(int to, int from, off_t *start, size_t n) {
  BEFORE(WRITE, below_fd(to), ENOSPC, syscall(SYS_sendfile, to, from, start, n / 2));
  return syscall(SYS_sendfile, to, from, start, n);
}

ssize_t sendfile64(int to, int from, off64_t *start, size_t n) { return sendfile(to, from, start, n); }

int fsync(int fd) {
  BEFORE(FLUSH, below_fd(fd), EIO, syscall(SYS_fsync, fd));
  return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
  BEFORE(FLUSH, below_fd(fd), EIO, syscall(SYS_fdatasync, fd));
  return syscall(SYS_fdatasync, fd);
}

int ftruncate(int fd, off_t n) {
  BEFORE(OTHER, below_fd(fd), EIO, syscall(SYS_ftruncate, fd, n));
  return syscall(SYS_ftruncate, fd, n);
}

int ftruncate64(int fd, off64_t n) { return ftruncate(fd, n); }

int renameat(int from, const char *path, int to, const char *name) {
  BEFORE(OTHER, below_at(to, name), EIO, syscall(SYS_renameat2, from, path, to, name, 0));
  return syscall(SYS_renameat2, from, path, to, name, 0);
}

int rename(const char *path, const char *name) { return renameat(AT_FDCWD, path, AT_FDCWD, name); }

int unlinkat(int fd, const char *path, int flags) {
  BEFORE(OTHER, below_at(fd, path), EIO, syscall(SYS_unlinkat, fd, path, flags));
  return syscall(SYS_unlinkat, fd, path, flags);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
