// See shim.h. A log has one record an operation, appended when it is done:
//   name, path, other path, inode, offset, bytes of data, with tabs between, a line's end, the
//   data.
// The inode tells files apart whose names change. It is in C because libc's headers declare these
// functions in ways that C++ can't define them again.

#define _GNU_SOURCE
#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
/// libc's function of the name.
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum What { NEEDS_ROOM, NEEDS_NONE };
enum Verdict { PASS, FAIL, HALF };

static const struct FaultPlan* plan;
static atomic_long count;
static char struck[16];

// Paths.

/// The absolute path of what `path` names, without following it. False if not watched.
static bool watched(int directory, const char* path, char full[PATH_MAX]) {
  if (plan == NULL) return false;
  if (path[0] == '/') {
    snprintf(full, PATH_MAX, "%s", path);
  } else {
    char link[64];
    snprintf(link, sizeof link, directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d",
             directory);
    const ssize_t length = readlink(link, full, PATH_MAX - 1);
    if (length < 0) return false;
    snprintf(full + length, (size_t)(PATH_MAX - length), *path == '\0' ? "%s" : "/%s", path);
  }
  const size_t length = strlen(plan->directory);
  return strncmp(full, plan->directory, length) == 0 && full[length] == '/';
}

/// Of an open file, or of a directory for its own sake: the watched one too.
static bool watched_file(int fd, char full[PATH_MAX]) {
  if (plan == NULL) return false;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, full, PATH_MAX - 1);
  if (length < 0) return false;
  full[length] = '\0';
  const size_t prefix = strlen(plan->directory);
  return strncmp(full, plan->directory, prefix) == 0 &&
         (full[prefix] == '/' || full[prefix] == '\0');
}

// The plan.

static enum Verdict next(const char* name, enum What what) {
  const long number = atomic_fetch_add(&count, 1) + 1;
  const bool strikes = number == plan->at;
  const bool later = number >= plan->at && plan->at > 0;
  if (strikes) snprintf(struck, sizeof struck, "%s", name);
  switch (plan->action) {
    case FAULT_KILL:
      if (strikes) raise(SIGKILL);
      return PASS;
    case FAULT_KILL_ALL:
      if (!strikes) return PASS;
      for (int i = 0; i < plan->pid_count; ++i) {
        if (plan->pids[i] != getpid()) kill(plan->pids[i], SIGKILL);
      }
      raise(SIGKILL);
      return PASS;
    case FAULT_ERROR:
      if (!strikes) return PASS;
      errno = plan->error;
      return FAIL;
    case FAULT_FULL:
      if (!later || what != NEEDS_ROOM) return PASS;
      errno = ENOSPC;
      return FAIL;
    case FAULT_BROKEN:
      if (!later) return PASS;
      errno = EIO;
      return FAIL;
    case FAULT_TEAR:
    case FAULT_SHORT:
      return strikes ? HALF : PASS;
    default:
      return PASS;
  }
}

static void append(const char* name, const char* path, const char* other, ino_t inode,
                   long long offset, const void* data, size_t bytes) {
  if (plan->log == NULL) return;
  char head[2 * PATH_MAX + 128];
  const int length = snprintf(head, sizeof head, "%s\t%s\t%s\t%lu\t%lld\t%zu\n", name, path, other,
                              (unsigned long)inode, offset, bytes);
  const int log = REAL(open)(plan->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const struct iovec parts[2] = {{head, (size_t)length}, {(void*)data, bytes}};
  if (REAL(writev)(log, parts, 2) != length + (ssize_t)bytes) abort();
  REAL(close)(log);
}

static ino_t inode_of(const char* path) {
  struct stat about;
  return fstatat(AT_FDCWD, path, &about, AT_SYMLINK_NOFOLLOW) == 0 ? about.st_ino : 0;
}

static ino_t inode_of_file(int fd) {
  struct stat about;
  return fstat(fd, &about) == 0 ? about.st_ino : 0;
}

// Data of files.

/// A write of `bytes` that `write_some` does with so many as it is given.
#define WRITE(fd, data, bytes, offset, write_some)                                             \
  char path[PATH_MAX];                                                                         \
  if (!watched_file(fd, path)) return write_some(bytes);                                       \
  const off_t place = (offset) < 0 ? lseek(fd, 0, SEEK_CUR) : (offset);                        \
  const enum Verdict verdict = next("write", NEEDS_ROOM);                                      \
  if (verdict == FAIL) return -1;                                                              \
  const ssize_t written = write_some(verdict == HALF ? ((bytes) + 1) / 2 : (bytes));           \
  if (verdict == HALF && plan->action == FAULT_TEAR) raise(SIGKILL);                           \
  if (written > 0) append("write", path, "", inode_of_file(fd), place, data, (size_t)written); \
  return written

EXPORT ssize_t write(int fd, const void* data, size_t bytes) {
#define some(n) REAL(write)(fd, data, n)
  WRITE(fd, data, bytes, -1, some);
#undef some
}

EXPORT ssize_t pwrite(int fd, const void* data, size_t bytes, off_t offset) {
#define some(n) REAL(pwrite)(fd, data, n, offset)
  WRITE(fd, data, bytes, offset, some);
#undef some
}
EXPORT ssize_t pwrite64(int fd, const void* data, size_t bytes, off64_t offset) {
  return pwrite(fd, data, bytes, offset);
}

/// As writes of its parts, the first alone: a caller has to go on with the rest anyway.
EXPORT ssize_t writev(int fd, const struct iovec* parts, int number) {
  char path[PATH_MAX];
  if (number < 1 || !watched_file(fd, path)) return REAL(writev)(fd, parts, number);
  return write(fd, parts[0].iov_base, parts[0].iov_len);
}

static int resize(int fd, off_t size, int (*act)(int, off_t)) {
  char path[PATH_MAX];
  if (!watched_file(fd, path)) return act(fd, size);
  if (next("truncate", NEEDS_NONE) == FAIL) return -1;
  const int status = act(fd, size);
  if (status == 0) append("truncate", path, "", inode_of_file(fd), size, "", 0);
  return status;
}
EXPORT int ftruncate(int fd, off_t size) {
  return resize(fd, size, REAL(ftruncate));
}
EXPORT int ftruncate64(int fd, off64_t size) {
  return resize(fd, size, REAL(ftruncate));
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t bytes) {
  char path[PATH_MAX];
  if (!watched_file(fd, path)) return REAL(fallocate)(fd, mode, offset, bytes);
  if (mode != 0) abort();  // not known to the log
  if (next("fallocate", NEEDS_ROOM) == FAIL) return -1;
  const int status = REAL(fallocate)(fd, mode, offset, bytes);
  if (status == 0) append("extend", path, "", inode_of_file(fd), offset + bytes, "", 0);
  return status;
}
EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t bytes) {
  return fallocate(fd, mode, offset, bytes);
}
EXPORT int posix_fallocate(int fd, off_t offset, off_t bytes) {
  return fallocate(fd, 0, offset, bytes) == 0 ? 0 : errno;
}
EXPORT int posix_fallocate64(int fd, off64_t offset, off64_t bytes) {
  return posix_fallocate(fd, offset, bytes);
}

static int sync_file(int fd, int (*act)(int)) {
  char path[PATH_MAX];
  if (!watched_file(fd, path)) return act(fd);
  if (next("fsync", NEEDS_NONE) == FAIL) return -1;
  const int status = act(fd);
  if (status == 0) append("fsync", path, "", inode_of_file(fd), 0, "", 0);
  return status;
}
EXPORT int fsync(int fd) {
  return sync_file(fd, REAL(fsync));
}
EXPORT int fdatasync(int fd) {
  return sync_file(fd, REAL(fdatasync));
}

/// It closes even where it reports an error, as Linux does.
EXPORT int close(int fd) {
  char path[PATH_MAX];
  const int saved = errno;
  const bool counts = watched_file(fd, path) && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
  errno = saved;
  if (!counts) return REAL(close)(fd);
  const enum Verdict verdict = next("close", NEEDS_NONE);
  const int error = errno;
  const int status = REAL(close)(fd);
  if (verdict != FAIL) return status;
  errno = error;
  return -1;
}

// Entries of directories.

static int open_at(int directory, const char* path, int flags, mode_t mode) {
  char full[PATH_MAX];
  if (!(flags & (O_CREAT | O_TRUNC)) || !watched(directory, path, full))
    return REAL(openat)(directory, path, flags, mode);
  const bool is_new = inode_of(full) == 0;
  if (!is_new && !(flags & O_TRUNC)) return REAL(openat)(directory, path, flags, mode);
  const char* name = is_new ? "create" : "truncate";
  if (next(name, is_new ? NEEDS_ROOM : NEEDS_NONE) == FAIL) return -1;
  const int fd = REAL(openat)(directory, path, flags, mode);
  if (fd >= 0) append(name, full, "", inode_of_file(fd), 0, "", 0);
  return fd;
}

#define OPEN(directory)                                              \
  va_list rest;                                                      \
  va_start(rest, flags);                                             \
  const bool has_mode = (flags & (O_CREAT | __O_TMPFILE)) != 0;      \
  const mode_t mode = has_mode ? (mode_t)va_arg(rest, unsigned) : 0; \
  va_end(rest);                                                      \
  return open_at(directory, path, flags, mode)

EXPORT int open(const char* path, int flags, ...) {
  OPEN(AT_FDCWD);
}
EXPORT int open64(const char* path, int flags, ...) {
  OPEN(AT_FDCWD);
}
EXPORT int openat(int directory, const char* path, int flags, ...) {
  OPEN(directory);
}
EXPORT int openat64(int directory, const char* path, int flags, ...) {
  OPEN(directory);
}
EXPORT int creat(const char* path, mode_t mode) {
  return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

EXPORT int mkdirat(int directory, const char* path, mode_t mode) {
  char full[PATH_MAX];
  if (!watched(directory, path, full)) return REAL(mkdirat)(directory, path, mode);
  if (next("mkdir", NEEDS_ROOM) == FAIL) return -1;
  const int status = REAL(mkdirat)(directory, path, mode);
  if (status == 0) append("mkdir", full, "", inode_of(full), 0, "", 0);
  return status;
}
EXPORT int mkdir(const char* path, mode_t mode) {
  return mkdirat(AT_FDCWD, path, mode);
}

EXPORT int symlinkat(const char* target, int directory, const char* path) {
  char full[PATH_MAX];
  if (!watched(directory, path, full)) return REAL(symlinkat)(target, directory, path);
  if (next("symlink", NEEDS_ROOM) == FAIL) return -1;
  const int status = REAL(symlinkat)(target, directory, path);
  if (status == 0) append("symlink", full, target, inode_of(full), 0, "", 0);
  return status;
}
EXPORT int symlink(const char* target, const char* path) {
  return symlinkat(target, AT_FDCWD, path);
}

EXPORT int unlinkat(int directory, const char* path, int flags) {
  char full[PATH_MAX];
  if (!watched(directory, path, full)) return REAL(unlinkat)(directory, path, flags);
  const ino_t inode = inode_of(full);
  if (inode == 0) return REAL(unlinkat)(directory, path, flags);  // it will fail
  if (next("unlink", NEEDS_NONE) == FAIL) return -1;
  const int status = REAL(unlinkat)(directory, path, flags);
  if (status == 0) append("unlink", full, "", inode, 0, "", 0);
  return status;
}
EXPORT int unlink(const char* path) {
  return unlinkat(AT_FDCWD, path, 0);
}
EXPORT int rmdir(const char* path) {
  return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}
EXPORT int remove(const char* path) {
  struct stat about;
  if (lstat(path, &about) != 0) return -1;
  return unlinkat(AT_FDCWD, path, S_ISDIR(about.st_mode) ? AT_REMOVEDIR : 0);
}

EXPORT int renameat2(int from_directory, const char* from, int to_directory, const char* to,
                     unsigned flags) {
  char full[PATH_MAX];
  char other[PATH_MAX];
  if (!watched(from_directory, from, full) || !watched(to_directory, to, other))
    return REAL(renameat2)(from_directory, from, to_directory, to, flags);
  const ino_t inode = inode_of(full);
  if (next("rename", NEEDS_NONE) == FAIL) return -1;
  const int status = REAL(renameat2)(from_directory, from, to_directory, to, flags);
  if (status == 0)
    append(flags & RENAME_EXCHANGE ? "exchange" : "rename", full, other, inode, 0, "", 0);
  return status;
}
EXPORT int renameat(int from_directory, const char* from, int to_directory, const char* to) {
  return renameat2(from_directory, from, to_directory, to, 0);
}
EXPORT int rename(const char* from, const char* to) {
  return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

// The interface.

void faults_arm(const struct FaultPlan* new_plan) {
  count = 0;
  struck[0] = '\0';
  plan = new_plan;
}

long faults_disarm(char last[16]) {
  plan = NULL;
  memcpy(last, struck, sizeof struck);
  return count;
}

void faults_mark(const char* text) {
  append("mark", text, "", 0, 0, "", 0);
}
