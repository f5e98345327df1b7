/* A disk under test, preloaded: it writes down what is done below one folder, fails when told, and tells the time it
 * is told. See disk.py, which compiles this and speaks to it.
 *
 * WEARSIGHT_DISK_FOLDER   what is watched (absolute, without links); shared memory of SQLite (-shm) is left out
 * WEARSIGHT_DISK_CONTROL  a file of struct control, mapped here and there
 * WEARSIGHT_DISK_LOG      where every change is written down; absent: nowhere
 *
 * One lock is held over each operation and its record, so the log has the order in which they took effect. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum op { WRITE = 1, SYNC, RENAME, OPEN, UNLINK, TRUNCATE, MKDIR, MARK, OPS };

struct control {
  int64_t clock_offset_ns;
  int64_t stalled;     /* flushes wait while it is not 0 */
  int64_t fault_ops;   /* bit 1 << op: these calls fail */
  int64_t fault_from;  /* the first that fails, counted from 1 */
  int64_t fault_until; /* the first after it that does not */
  int64_t fault_errno;
  int64_t fault_short; /* a write that fails writes half of its bytes first, and says so */
  int64_t calls[OPS];
  int64_t failed; /* calls that were made to fail */
};

struct head { uint32_t op, serial, path, data; int64_t offset; };

#define REAL(name)                                             \
  ({                                                           \
    static void *found; /* looked for once in each place */    \
    if (!found) found = real(#name);                           \
    (__typeof__(&name))found;                                  \
  })
#define FDS 65536

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t serial_of[FDS], last_serial;
static const char *folder;
static size_t folder_length;
static int log_fd = -1;
static struct control nothing, *control = &nothing;

static void *real(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  if (!found) abort();
  return found;
}

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("WEARSIGHT_DISK_CONTROL"), *log = getenv("WEARSIGHT_DISK_LOG");
  int fd;
  if (path && (fd = REAL(open)(path, O_RDWR | O_CLOEXEC)) >= 0) {
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) control = mapped;
    REAL(close)(fd);
  }
  if (log) log_fd = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  folder_length = (folder = getenv("WEARSIGHT_DISK_FOLDER")) ? strlen(folder) : 0;
}

/* Whether path lies below the folder; room gets it in full. */
static int watched(int at, const char *path, char room[PATH_MAX]) {
  size_t n = 0;
  if (!folder_length || !path) return 0;
  if (path[0] != '/') {
    if (at != AT_FDCWD) {
      char link[64];
      snprintf(link, sizeof link, "/proc/self/fd/%d", at);
      ssize_t got = readlink(link, room, PATH_MAX - 2);
      if (got <= 0) return 0;
      room[n = (size_t)got] = 0;
    } else {
      if (!getcwd(room, PATH_MAX - 2)) return 0;
      n = strlen(room);
    }
    room[n++] = '/';
  }
  snprintf(room + n, PATH_MAX - n, "%s", path);
  n = strlen(room);
  if (strncmp(room, folder, folder_length) || (room[folder_length] != '/' && room[folder_length])) return 0;
  return n < 4 || strcmp(room + n - 4, "-shm");
}

static void record(enum op op, uint32_t serial, int64_t offset, const char *path, const char *other, const void *data,
                   size_t size) {
  if (log_fd < 0) return;
  size_t first = path ? strlen(path) : 0, second = other ? strlen(other) + 1 : 0;
  struct head head = {op, serial, (uint32_t)(first + second), (uint32_t)size, offset};
  struct iovec parts[] = {{&head, sizeof head}, {(void *)path, first}, {"", second ? 1 : 0},
                          {(void *)other, second ? second - 1 : 0}, {(void *)data, size}};
  size_t whole = sizeof head + first + second + size;
  if (REAL(writev)(log_fd, parts, 5) != (ssize_t)whole) abort();
}

/* Count a call; 0, or the error it has to fail with. */
static int fault(enum op op) {
  int64_t number = ++control->calls[op];
  if (!(control->fault_ops >> op & 1) || number < control->fault_from || number >= control->fault_until) return 0;
  control->failed++;
  return (int)control->fault_errno;
}

static int failed(int error) {
  pthread_mutex_unlock(&lock);
  errno = error;
  return -1;
}

static uint32_t serial(int fd) { return fd >= 0 && fd < FDS ? serial_of[fd] : 0; }

/* Files */

static int opened(int (*open_it)(int, const char *, int, mode_t), int at, const char *path, int flags, mode_t mode) {
  char full[PATH_MAX];
  int fd, error;
  if (!watched(at, path, full)) {
    if ((fd = open_it(at, path, flags, mode)) >= 0 && fd < FDS) serial_of[fd] = 0;
    return fd;
  }
  pthread_mutex_lock(&lock);
  int writes = flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC);
  if (writes && (error = fault(OPEN))) return failed(error);
  if ((fd = open_it(at, path, flags, mode)) >= 0 && fd < FDS) {
    serial_of[fd] = ++last_serial;
    record(OPEN, last_serial, flags, full, NULL, NULL, 0);
  }
  pthread_mutex_unlock(&lock);
  return fd;
}

static int open_plainly(int at, const char *path, int flags, mode_t mode) {
  return REAL(openat)(at, path, flags, mode);
}

#define MODE(flags, last)                                \
  mode_t mode = 0;                                       \
  if ((flags) & (O_CREAT | __O_TMPFILE)) {               \
    va_list rest;                                        \
    va_start(rest, last);                                \
    mode = va_arg(rest, mode_t);                         \
    va_end(rest);                                        \
  }

int open(const char *path, int flags, ...) { MODE(flags, flags) return opened(open_plainly, AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, flags) return opened(open_plainly, AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags, flags) return opened(open_plainly, at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags, flags) return opened(open_plainly, at, path, flags, mode); }

int close(int fd) {
  if (fd >= 0 && fd == log_fd) return 0; /* whoever closes all it does not know */
  if (fd >= 0 && fd < FDS) serial_of[fd] = 0;
  return REAL(close)(fd);
}

/* Write under the lock; offset -1: where the file stands. */
static ssize_t written(int fd, const void *data, size_t size, off_t offset) {
  pthread_mutex_lock(&lock);
  int error = fault(WRITE);
  if (error && !(control->fault_short && size > 1)) return failed(error);
  if (error) size /= 2;
  off_t at = offset;
  if (at < 0) at = fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
  ssize_t done = offset < 0 ? REAL(write)(fd, data, size) : REAL(pwrite)(fd, data, size, offset);
  if (done > 0) record(WRITE, serial(fd), at, NULL, NULL, data, (size_t)done);
  int kept = errno;
  pthread_mutex_unlock(&lock);
  errno = kept;
  return done;
}

ssize_t write(int fd, const void *data, size_t size) {
  return serial(fd) ? written(fd, data, size, -1) : REAL(write)(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
  return serial(fd) ? written(fd, data, size, offset) : REAL(pwrite)(fd, data, size, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return pwrite(fd, data, size, offset); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (!serial(fd)) return REAL(writev)(fd, parts, count);
  ssize_t whole = 0; /* one after the other, which is what nobody can tell apart */
  for (int i = 0; i < count; i++) {
    ssize_t done = parts[i].iov_len ? written(fd, parts[i].iov_base, parts[i].iov_len, -1) : 0;
    if (done < 0) return whole ? whole : -1;
    whole += done;
    if ((size_t)done < parts[i].iov_len) break;
  }
  return whole;
}

/* Copies inside the kernel would go by unseen: who asks for one is told to copy by hand. */
#define UNSEEN(name, out, ...)                  \
  if (serial(out)) {                            \
    errno = EINVAL;                             \
    return -1;                                  \
  }                                             \
  return REAL(name)(__VA_ARGS__);
ssize_t sendfile64(int out, int in, off_t *offset, size_t size);
ssize_t sendfile64(int out, int in, off_t *offset, size_t size) { UNSEEN(sendfile64, out, out, in, offset, size) }
ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t size, unsigned flags) {
  UNSEEN(copy_file_range, out, in, from, out, to, size, flags)
}

int ftruncate(int fd, off_t size) {
  if (!serial(fd)) return REAL(ftruncate)(fd, size);
  pthread_mutex_lock(&lock);
  int error = fault(TRUNCATE);
  if (error) return failed(error);
  int done = REAL(ftruncate)(fd, size);
  if (!done) record(TRUNCATE, serial(fd), size, NULL, NULL, NULL, 0);
  pthread_mutex_unlock(&lock);
  return done;
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

static int synced(int fd, int (*sync_it)(int)) {
  if (!serial(fd)) return sync_it(fd);
  while (control->stalled) usleep(20000);
  pthread_mutex_lock(&lock);
  int error = fault(SYNC);
  if (error) { /* what was to be written is forgotten: the system takes it for written from now on */
    record(SYNC, serial(fd), 1, NULL, NULL, NULL, 0);
    return failed(error);
  }
  int done = log_fd < 0 ? sync_it(fd) : 0; /* where a log is kept, it says what a cut leaves, not the real disk */
  if (!done) record(SYNC, serial(fd), 0, NULL, NULL, NULL, 0);
  pthread_mutex_unlock(&lock);
  return done;
}
int fsync(int fd) { return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

/* Folders */

static int renamed(int from_at, const char *from, int to_at, const char *to) {
  char source[PATH_MAX], target[PATH_MAX];
  if (!watched(from_at, from, source) || !watched(to_at, to, target)) return REAL(renameat)(from_at, from, to_at, to);
  pthread_mutex_lock(&lock);
  int error = fault(RENAME);
  if (error) return failed(error);
  int done = REAL(renameat)(from_at, from, to_at, to);
  if (!done) record(RENAME, 0, 0, source, target, NULL, 0);
  pthread_mutex_unlock(&lock);
  return done;
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int from_at, const char *from, int to_at, const char *to) { return renamed(from_at, from, to_at, to); }

static int unlinked(int at, const char *path, int flags) {
  char full[PATH_MAX];
  if (!watched(at, path, full)) return REAL(unlinkat)(at, path, flags);
  pthread_mutex_lock(&lock);
  int error = fault(UNLINK);
  if (error) return failed(error);
  int done = REAL(unlinkat)(at, path, flags);
  if (!done) record(UNLINK, 0, 0, full, NULL, NULL, 0);
  pthread_mutex_unlock(&lock);
  return done;
}
int unlink(const char *path) { return unlinked(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { return unlinked(at, path, flags); }

int mkdirat(int at, const char *path, mode_t mode) {
  char full[PATH_MAX];
  if (!watched(at, path, full)) return REAL(mkdirat)(at, path, mode);
  pthread_mutex_lock(&lock);
  int done = REAL(mkdirat)(at, path, mode);
  if (!done) record(MKDIR, 0, 0, full, NULL, NULL, 0);
  pthread_mutex_unlock(&lock);
  return done;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* What the program under test says at this point of the log. */
void wearsight_mark(const char *text, size_t size);
void wearsight_mark(const char *text, size_t size) {
  pthread_mutex_lock(&lock);
  record(MARK, 0, 0, NULL, NULL, text, size);
  pthread_mutex_unlock(&lock);
}

/* The clock */

int clock_gettime(clockid_t clock, struct timespec *time) {
  int done = REAL(clock_gettime)(clock, time);
  int64_t offset = control->clock_offset_ns;
  if (!done && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    int64_t now = time->tv_sec * 1000000000LL + time->tv_nsec + offset;
    time->tv_sec = now / 1000000000LL;
    time->tv_nsec = now % 1000000000LL;
  }
  return done;
}
int gettimeofday(struct timeval *restrict time, void *restrict zone) {
  (void)zone;
  struct timespec now;
  int done = clock_gettime(CLOCK_REALTIME, &now);
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return done;
}
time_t time(time_t *told) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (told) *told = now.tv_sec;
  return now.tv_sec;
}
