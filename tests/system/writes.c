/* What a program writes below one folder, for tests: counted, kept in a journal, refused, or cut by a kill; and its clock.

   gcc -shared -fPIC -o writes.so writes.c, then LD_PRELOAD=writes.so and in the environment:
     WRITES_ROOT     the folder; nothing happens to what lies elsewhere
     WRITES_JOURNAL  a file that gets a record for each step (see writes.py)
     WRITES_HEADS    with it the journal leaves the written bytes out
     WRITES_KILL_AT  the step before which the process dies, with its group if it leads one; a write is half done
     WRITES_REFUSE   a file that holds an errno: while it is not 0, every step fails with it
     WRITES_CLOCK    a file that holds seconds to be added to the wall clock
*/
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PATHS 4200

struct head {
    char what;
    char pad[3];
    uint32_t size; /* of what follows: the written bytes, or two paths with a zero after each */
    uint64_t inode, offset;
};

static char root[PATHS];
static size_t root_size;
static int journal = -1, refuse = -1, shift = -1, heads;
static long steps, kill_at;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("WRITES_ROOT");
    if (text && realpath(text, root)) root_size = strlen(root);
    if ((text = getenv("WRITES_JOURNAL"))) {
        int fd = syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        journal = fcntl(fd, F_DUPFD_CLOEXEC, 700);
        syscall(SYS_close, fd);
    }
    heads = getenv("WRITES_HEADS") != NULL;
    if ((text = getenv("WRITES_KILL_AT"))) kill_at = atol(text);
    if ((text = getenv("WRITES_REFUSE"))) refuse = syscall(SYS_openat, AT_FDCWD, text, O_RDONLY | O_CLOEXEC);
    if ((text = getenv("WRITES_CLOCK"))) shift = syscall(SYS_openat, AT_FDCWD, text, O_RDONLY | O_CLOEXEC);
}

static double number_in(int fd) {
    char text[64] = {0};
    return fd >= 0 && syscall(SYS_pread64, fd, text, sizeof text - 1, (off_t)0) > 0 ? atof(text) : 0.0;
}

static int below(const char *path) {
    return root_size && !strncmp(path, root, root_size) && (path[root_size] == '/' || !path[root_size]);
}

/* Whether a file of ours is open under this number. */
static int ours(int fd) {
    char link[64], path[PATHS];
    if (!root_size || fd < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return below(path);
}

/* Whether a path is ours; `whole` gets it from the root on, links in its folders followed. */
static int ours_at(int dir, const char *path, char *whole) {
    char folder[PATHS], real[PATHS], link[64];
    if (!root_size || !path) return 0;
    if (path[0] == '/' || dir == AT_FDCWD) {
        snprintf(folder, sizeof folder, "%s", path);
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d/", dir);
        snprintf(folder, sizeof folder, "%s%s", link, path);
    }
    char *name = strrchr(folder, '/');
    if (name) *name++ = 0;
    if (!realpath(name ? (folder[0] ? folder : "/") : ".", real)) return 0;
    if ((size_t)snprintf(whole, PATHS, "%s/%s", real, name ? name : folder) >= PATHS) return 0;
    return below(whole);
}

static uint64_t inode_of(int fd) {
    struct stat about;
    return fstat(fd, &about) ? 0 : about.st_ino;
}

static void note(char what, uint64_t inode, uint64_t offset, const void *data, size_t size, const char *more) {
    size_t second = more ? strlen(more) + 1 : 0;
    struct head head = {what, {0}, heads && !more && what == 'W' ? 0 : size + second, inode, offset};
    if (heads && what == 'W') head.offset = size;
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)data, head.size ? size : 0}, {(void *)more, second}};
    if (journal >= 0) syscall(SYS_writev, journal, parts, 3);
}

/* Begin a step of ours: return whether this is the one before which the process dies. */
static int last_step(void) {
    return ++steps == kill_at;
}

static void die(void) {
    kill(getpgrp() == getpid() ? 0 : getpid(), SIGKILL);
    for (;;) pause();
}

static int refused(void) {
    int code = (int)number_in(refuse);
    if (code) errno = code;
    return code;
}

#define STEP_OR(failed)                                                                                               \
    if (refused()) return failed;                                                                                     \
    pthread_mutex_lock(&lock);                                                                                        \
    if (last_step()) die()

static ssize_t put(int fd, const void *data, size_t size, off_t offset, int at) {
    if (!ours(fd)) {
        if (fd == 1) note('A', 0, 0, data, size, NULL);
        return at ? syscall(SYS_pwrite64, fd, data, size, offset) : syscall(SYS_write, fd, data, size);
    }
    if (refused()) return -1;
    pthread_mutex_lock(&lock);
    if (!at) offset = fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
    int dying = last_step();
    if (dying) size /= 2;
    ssize_t done = at ? syscall(SYS_pwrite64, fd, data, size, offset) : syscall(SYS_write, fd, data, size);
    int code = errno;
    if (done > 0) note('W', inode_of(fd), offset, data, done, NULL);
    if (dying) die();
    pthread_mutex_unlock(&lock);
    errno = code;
    return done;
}

ssize_t write(int fd, const void *data, size_t size) { return put(fd, data, size, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return put(fd, data, size, offset, 1); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return put(fd, data, size, offset, 1); }

/* Let the callers go on with plain writes. */
ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) {
    (void)out, (void)in, (void)offset, (void)size;
    errno = ENOTSOCK;
    return -1;
}
ssize_t sendfile(int out, int in, off_t *offset, size_t size) { return sendfile64(out, in, offset, size); }

static int cut(int fd, off64_t size) {
    if (!ours(fd)) return syscall(SYS_ftruncate, fd, size);
    STEP_OR(-1);
    int done = syscall(SYS_ftruncate, fd, size);
    if (!done) note('T', inode_of(fd), size, NULL, 0, NULL);
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate(int fd, off_t size) { return cut(fd, size); }
int ftruncate64(int fd, off64_t size) { return cut(fd, size); }

static int sync_to_disk(int fd, long call) {
    if (!ours(fd)) return syscall(call, fd);
    STEP_OR(-1);
    int done = syscall(call, fd);
    if (!done) note('S', inode_of(fd), 0, NULL, 0, NULL);
    pthread_mutex_unlock(&lock);
    return done;
}
int fsync(int fd) { return sync_to_disk(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_to_disk(fd, SYS_fdatasync); }

static int open_file(int dir, const char *path, int flags, mode_t mode) {
    char whole[PATHS];
    struct stat before;
    if (!(flags & (O_CREAT | O_TRUNC)) || !ours_at(dir, path, whole)) return syscall(SYS_openat, dir, path, flags, mode);
    STEP_OR(-1);
    int fresh = lstat(whole, &before) != 0;
    int fd = syscall(SYS_openat, dir, path, flags, mode), code = errno;
    if (fd >= 0 && fresh) note('C', inode_of(fd), 0, whole, strlen(whole) + 1, "");
    if (fd >= 0 && !fresh && flags & O_TRUNC) note('T', inode_of(fd), 0, NULL, 0, NULL);
    pthread_mutex_unlock(&lock);
    errno = code;
    return fd;
}

#define MODE(flags)                                                                                                   \
    mode_t mode = 0;                                                                                                  \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                              \
        va_list rest;                                                                                                 \
        va_start(rest, flags);                                                                                        \
        mode = va_arg(rest, mode_t);                                                                                  \
        va_end(rest);                                                                                                 \
    }
int open(const char *path, int flags, ...) { MODE(flags) return open_file(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_file(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags) return open_file(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags) return open_file(dir, path, flags, mode); }

static int move(int from_dir, const char *from, int to_dir, const char *to) {
    char one[PATHS], two[PATHS];
    if (!ours_at(from_dir, from, one) || !ours_at(to_dir, to, two))
        return syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);
    STEP_OR(-1);
    int done = syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);
    if (!done) note('R', 0, 0, one, strlen(one) + 1, two);
    pthread_mutex_unlock(&lock);
    return done;
}
int rename(const char *from, const char *to) { return move(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int a, const char *from, int b, const char *to) { return move(a, from, b, to); }

static int drop(int dir, const char *path, int flags) {
    char whole[PATHS];
    if (!ours_at(dir, path, whole)) return syscall(SYS_unlinkat, dir, path, flags);
    STEP_OR(-1);
    int done = syscall(SYS_unlinkat, dir, path, flags);
    if (!done) note('U', 0, 0, whole, strlen(whole) + 1, "");
    pthread_mutex_unlock(&lock);
    return done;
}
int unlink(const char *path) { return drop(AT_FDCWD, path, 0); }
int unlinkat(int dir, const char *path, int flags) { return drop(dir, path, flags); }
int rmdir(const char *path) { return drop(AT_FDCWD, path, AT_REMOVEDIR); }

static int make(int dir, const char *path, mode_t mode) {
    char whole[PATHS];
    struct stat about;
    if (!ours_at(dir, path, whole)) return syscall(SYS_mkdirat, dir, path, mode);
    STEP_OR(-1);
    int done = syscall(SYS_mkdirat, dir, path, mode);
    if (!done && !lstat(whole, &about)) note('D', about.st_ino, 0, whole, strlen(whole) + 1, "");
    pthread_mutex_unlock(&lock);
    return done;
}
int mkdir(const char *path, mode_t mode) { return make(AT_FDCWD, path, mode); }
int mkdirat(int dir, const char *path, mode_t mode) { return make(dir, path, mode); }

int clock_gettime(clockid_t which, struct timespec *now) {
    int done = syscall(SYS_clock_gettime, which, now);
    if (!done && shift >= 0 && which == CLOCK_REALTIME) now->tv_sec += (time_t)number_in(shift);
    return done;
}
time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec at;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &at);
    now->tv_sec = at.tv_sec, now->tv_usec = at.tv_nsec / 1000;
    return 0;
}
