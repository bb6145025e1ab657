/* Put before the C library in a node's process: calls to the disk that are slow, fail, lie or are
 * the last thing the process does, and clocks that go wrong.
 *
 * JL_SHIM names a mapped file, laid out as `struct control` (shim.py writes it, live).  What is done
 * is counted there, so that it survives the process and proves that it happened.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
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

enum { FSYNC, FSYNC_FOLDER, FDATASYNC, MSYNC, RENAME, UNLINK, WRITE, TRUNCATE, ALLOCATE, CALLS };
enum { WALL, MONOTONIC, CLOCKS };
enum { PASS, FAIL, LIE };

struct call {
  uint64_t seen, slow_us, slowed;
  int64_t fail_left, fail_code;
  uint64_t failed, lie, lied;
};

struct clock {
  int64_t base_ns;   /* true monotonic time at which the offset was base_offset_ns */
  int64_t offset_ns; /* and from then on it grows by drift times the time passed */
  double drift;
  uint64_t is_on, told;
  int64_t told_offset_ns; /* of the last answer */
};

struct control {
  uint64_t attached;   /* processes that have loaded us */
  uint64_t clock_turn; /* odd while the clocks are written */
  uint64_t device;     /* only files of that device; 0: all */
  uint64_t kill_calls; /* bits of the calls that are counted down */
  int64_t kill_left;   /* the process ends before the call that makes it 0 */
  uint64_t killed, killed_call, unused;
  char kill_part[128]; /* counted are only calls on files with that in their path; "": all */
  struct clock clocks[CLOCKS];
  struct call calls[CALLS];
};

static struct control *control;

__attribute__((constructor)) static void attach(void) {
  const char *path = getenv("JL_SHIM");
  if (path == NULL) return;
  int fd = open(path, O_RDWR | O_CLOEXEC);
  void *found = fd < 0 ? MAP_FAILED
                       : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (found == MAP_FAILED) {
    fprintf(stderr, "shim: %s: %s\n", path, strerror(errno));
    _exit(97); /* a run without the faults it counts on would prove nothing */
  }
  close(fd);
  control = found;
  __atomic_add_fetch(&control->attached, 1, __ATOMIC_SEQ_CST);
}

/* The C library's own function of that name, looked up once. */
#define REAL(name) \
  static __typeof__(&name) real; \
  if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define COUNT(field) __atomic_add_fetch(&(field), 1, __ATOMIC_SEQ_CST)

static int true_time(clockid_t id, struct timespec *found) {
  REAL(clock_gettime);
  return real(id, found);
}

/* -- the disk ---------------------------------------------------------------------------------- */

static int is_ours(const struct stat *found) {
  return control->device == 0 || control->device == (uint64_t)found->st_dev;
}

static int is_our_fd(int fd, int *is_folder) {
  struct stat found;
  int code = errno;
  int is_it = control != NULL && fstat(fd, &found) == 0 && is_ours(&found);
  if (is_it) *is_folder = S_ISDIR(found.st_mode);
  errno = code;
  return is_it;
}

static int is_our_path(int folder, const char *path) {
  struct stat found;
  int code = errno;
  int is_it = control != NULL && fstatat(folder, path, &found, AT_SYMLINK_NOFOLLOW) == 0 &&
              is_ours(&found);
  errno = code;
  return is_it;
}

static int has_part(int fd, const char *path) {
  char link[64], found[4096];
  if (control->kill_part[0] == 0) return 1;
  if (path == NULL) {
    int code = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, found, sizeof found - 1);
    found[size > 0 ? size : 0] = 0;
    path = found;
    errno = code;
  }
  return strstr(path, control->kill_part) != NULL;
}

/* Count one call on a file of ours, known by *fd* or *path*, and say what is to become of it. */
static int meddle(int kind, int fd, const char *path) {
  struct call *call = &control->calls[kind];
  COUNT(call->seen);
  if ((control->kill_calls >> kind & 1) && control->kill_left > 0 && has_part(fd, path) &&
      __atomic_sub_fetch(&control->kill_left, 1, __ATOMIC_SEQ_CST) == 0) {
    control->killed_call = (uint64_t)kind;
    COUNT(control->killed);
    kill(getpid(), SIGKILL);
    pause();
  }
  if (call->slow_us > 0) {
    int code = errno;
    struct timespec rest = {(time_t)(call->slow_us / 1000000), (long)(call->slow_us % 1000000) * 1000};
    while (nanosleep(&rest, &rest) != 0 && errno == EINTR) {
    }
    errno = code;
    COUNT(call->slowed);
  }
  int64_t left = call->fail_left;
  while (left > 0)
    if (__atomic_compare_exchange_n(&call->fail_left, &left, left - 1, 0, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST)) {
      COUNT(call->failed);
      errno = (int)call->fail_code;
      return FAIL;
    }
  if (call->lie) {
    COUNT(call->lied);
    return LIE;
  }
  return PASS;
}

#define MEDDLE(is_it, kind, fd, path, lied) \
  if (is_it) switch (meddle(kind, fd, path)) { \
      case FAIL: return -1; \
      case LIE: return (lied); \
    }

int fsync(int fd) {
  REAL(fsync);
  int is_folder = 0;
  MEDDLE(is_our_fd(fd, &is_folder), is_folder ? FSYNC_FOLDER : FSYNC, fd, NULL, 0)
  return real(fd);
}

int fdatasync(int fd) {
  REAL(fdatasync);
  int is_folder = 0;
  MEDDLE(is_our_fd(fd, &is_folder), FDATASYNC, fd, NULL, 0)
  return real(fd);
}

int msync(void *address, size_t size, int flags) { /* which file it is the kernel does not say */
  REAL(msync);
  MEDDLE(control != NULL, MSYNC, -1, "", 0)
  return real(address, size, flags);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  MEDDLE(is_our_path(AT_FDCWD, from), RENAME, -1, from, 0)
  return real(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
  REAL(renameat);
  MEDDLE(is_our_path(from_folder, from), RENAME, -1, from, 0)
  return real(from_folder, from, to_folder, to);
}

int unlink(const char *path) {
  REAL(unlink);
  MEDDLE(is_our_path(AT_FDCWD, path), UNLINK, -1, path, 0)
  return real(path);
}

int unlinkat(int folder, const char *path, int flags) {
  REAL(unlinkat);
  MEDDLE(is_our_path(folder, path), UNLINK, -1, path, 0)
  return real(folder, path, flags);
}

static ssize_t size_of(const struct iovec *parts, int count) {
  ssize_t size = 0;
  for (int number = 0; number < count; number++) size += (ssize_t)parts[number].iov_len;
  return size;
}

/* CPython is built for large files and calls the names with 64; where long has 64 bits they mean the
 * same. */
#define WRITING(name, lied, declared, ...) \
  ssize_t name declared { \
    REAL(name); \
    int is_folder = 0; \
    MEDDLE(is_our_fd(fd, &is_folder), WRITE, fd, NULL, lied) \
    return real(__VA_ARGS__); \
  }

WRITING(write, (ssize_t)size, (int fd, const void *data, size_t size), fd, data, size)
WRITING(pwrite, (ssize_t)size, (int fd, const void *data, size_t size, off_t at), fd, data, size, at)
WRITING(pwrite64, (ssize_t)size, (int fd, const void *data, size_t size, off64_t at), fd, data, size,
        at)
WRITING(pwritev, size_of(parts, count), (int fd, const struct iovec *parts, int count, off_t at), fd,
        parts, count, at)
WRITING(pwritev64, size_of(parts, count), (int fd, const struct iovec *parts, int count, off64_t at),
        fd, parts, count, at)
WRITING(pwritev2, size_of(parts, count),
        (int fd, const struct iovec *parts, int count, off_t at, int flags), fd, parts, count, at,
        flags)
WRITING(pwritev64v2, size_of(parts, count),
        (int fd, const struct iovec *parts, int count, off64_t at, int flags), fd, parts, count, at,
        flags)

int ftruncate(int fd, off_t size) {
  REAL(ftruncate);
  int is_folder = 0;
  MEDDLE(is_our_fd(fd, &is_folder), TRUNCATE, fd, NULL, 0)
  return real(fd, size);
}

int ftruncate64(int fd, off64_t size) {
  REAL(ftruncate64);
  int is_folder = 0;
  MEDDLE(is_our_fd(fd, &is_folder), TRUNCATE, fd, NULL, 0)
  return real(fd, size);
}

/* These return the error instead of setting errno. */
#define ALLOCATING(name, type) \
  int name(int fd, type at, type size) { \
    REAL(name); \
    int is_folder = 0; \
    if (is_our_fd(fd, &is_folder)) switch (meddle(ALLOCATE, fd, NULL)) { \
        case FAIL: return errno; \
        case LIE: return 0; \
      } \
    return real(fd, at, size); \
  }

ALLOCATING(posix_fallocate, off_t)
ALLOCATING(posix_fallocate64, off64_t)

/* -- the clocks -------------------------------------------------------------------------------- */

#define SECOND 1000000000LL

static int64_t to_ns(const struct timespec *time) { return time->tv_sec * SECOND + time->tv_nsec; }

static struct timespec from_ns(int64_t ns) {
  if (ns < 0) ns = 0; /* before 1970: no program of ours can have meant it */
  return (struct timespec){(time_t)(ns / SECOND), (long)(ns % SECOND)};
}

/* What is to be added to the true time now; *rate* is how fast the told clock runs. */
static int64_t offset_of(int which, double *rate) {
  struct timespec now;
  int64_t base = 0, offset = 0;
  double drift = 0;
  /* Bounded: a writer that died halfway must not hang the node. */
  for (int tries = 0; tries < 10000; tries++) {
    uint64_t turn = __atomic_load_n(&control->clock_turn, __ATOMIC_ACQUIRE);
    base = control->clocks[which].base_ns;
    offset = control->clocks[which].offset_ns;
    drift = control->clocks[which].drift;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if ((turn & 1) == 0 && turn == __atomic_load_n(&control->clock_turn, __ATOMIC_RELAXED)) break;
  }
  true_time(CLOCK_MONOTONIC, &now);
  if (rate != NULL) *rate = 1 + drift;
  return offset + (int64_t)((double)(to_ns(&now) - base) * drift);
}

static int clock_of(clockid_t id) {
  switch (id) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE: return WALL;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_BOOTTIME: return MONOTONIC;
  }
  return -1;
}

static int is_on(int which) { return control != NULL && which >= 0 && control->clocks[which].is_on; }

int clock_gettime(clockid_t id, struct timespec *found) {
  int code = true_time(id, found), which = clock_of(id);
  if (code == 0 && is_on(which)) {
    int64_t offset = offset_of(which, NULL);
    *found = from_ns(to_ns(found) + offset);
    control->clocks[which].told_offset_ns = offset;
    COUNT(control->clocks[which].told);
  }
  return code;
}

int gettimeofday(struct timeval *found, void *zone) {
  (void)zone;
  struct timespec time;
  int code = clock_gettime(CLOCK_REALTIME, &time);
  found->tv_sec = time.tv_sec;
  found->tv_usec = time.tv_nsec / 1000;
  return code;
}

time_t time(time_t *found) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (found != NULL) *found = now.tv_sec;
  return now.tv_sec;
}

/* Whoever waits until an instant has reckoned it from the time we told; the kernel knows the true
 * one.  Which clock is meant is not always said, but no machine has been up since 1970. */
static const struct timespec *true_instant(const struct timespec *told, struct timespec *found) {
  int which = told->tv_sec < SECOND ? MONOTONIC : WALL;
  if (!is_on(which)) return told;
  double rate = 1;
  int64_t offset = offset_of(which, &rate);
  true_time(which == WALL ? CLOCK_REALTIME : CLOCK_MONOTONIC, found);
  int64_t now = to_ns(found), rest = to_ns(told) - (now + offset);
  *found = from_ns(now + (int64_t)((double)rest / rate));
  return found;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex,
                           const struct timespec *until) {
  static __typeof__(&pthread_cond_timedwait) real;
  struct timespec found;
  if (real == NULL) { /* dlsym might find the one of 1999, for binaries that old */
    real = (__typeof__(real))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (real == NULL) real = (__typeof__(real))dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  }
  return real(condition, mutex, true_instant(until, &found));
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t id,
                           const struct timespec *until) {
  REAL(pthread_cond_clockwait);
  struct timespec found;
  return real(condition, mutex, id, true_instant(until, &found));
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
  REAL(sem_timedwait);
  struct timespec found;
  return real(semaphore, true_instant(until, &found));
}

int sem_clockwait(sem_t *semaphore, clockid_t id, const struct timespec *until) {
  REAL(sem_clockwait);
  struct timespec found;
  return real(semaphore, id, true_instant(until, &found));
}

int clock_nanosleep(clockid_t id, int flags, const struct timespec *until, struct timespec *rest) {
  REAL(clock_nanosleep);
  struct timespec found;
  return real(id, flags, flags & TIMER_ABSTIME ? true_instant(until, &found) : until, rest);
}
