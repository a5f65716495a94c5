// Loaded in front of the C library (LD_PRELOAD): lists a process's calls that open, write, flush or
// rename files below a folder, and fails one of them, or kills the process right after it.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static int chosen, error, list = -1, calls;
static volatile int armed;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

// From here on calls below `below` are counted; number `call` fails with `number`, or, where that
// is 0, is the last that the process makes. Each is listed in `descriptor` as "operation path".
void fail_call(const char *below, int call, int number, int descriptor) {
    snprintf(folder, sizeof folder, "%s/", below);
    chosen = call, error = number, list = descriptor, calls = 0, armed = 1;
}

static int is_below(const char *path) {
    char joined[2 * PATH_MAX];
    if (path[0] != '/') {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(joined, sizeof joined, "%s/%s", here, path);
        path = joined;
    }
    return !strncmp(path, folder, strlen(folder));
}

// Count a call; 0 where it is to be made, -1 where it fails, 1 where it is the last.
static int count(const char *operation, const char *path) {
    if (!armed || !path || !is_below(path)) return 0;
    char line[PATH_MAX + 32];
    pthread_mutex_lock(&turn);
    int number = ++calls;
    int length = snprintf(line, sizeof line, "%s %s\n", operation, path);
    syscall(SYS_write, list, line, length);
    pthread_mutex_unlock(&turn);
    if (number != chosen) return 0;
    if (!error) return 1;
    errno = error;
    return -1;
}

static int count_descriptor(const char *operation, int descriptor) {
    if (!armed || descriptor <= 2 || descriptor == list) return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    long length = readlink(link, path, sizeof path - 1);
    if (length < 1 || path[0] != '/') return 0;  // a pipe, a socket, what wakes a thread
    path[length] = 0;
    return count(operation, path);
}

#define AS_IT_IS(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

#define CALL(counted, name, ...)                          \
    int fate = counted;                                   \
    if (fate < 0) return -1;                              \
    typeof(AS_IT_IS(name)(__VA_ARGS__)) done = AS_IT_IS(name)(__VA_ARGS__); \
    if (fate > 0) raise(SIGKILL);                         \
    return done;

#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE(flags) CALL(count("open", path), open, path, flags, mode) }
int open64(const char *path, int flags, ...) { MODE(flags) CALL(count("open", path), open64, path, flags, mode) }
int openat(int at, const char *path, int flags, ...) { MODE(flags) CALL(count("open", path), openat, at, path, flags, mode) }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) CALL(count("open", path), openat64, at, path, flags, mode) }

FILE *fopen(const char *path, const char *mode) {
    int fate = count("open", path);
    if (fate < 0) return NULL;
    FILE *done = AS_IT_IS(fopen)(path, mode);
    if (fate > 0) raise(SIGKILL);
    return done;
}
FILE *fopen64(const char *path, const char *mode) { return fopen(path, mode); }

ssize_t write(int fd, const void *data, size_t size) { CALL(count_descriptor("write", fd), write, fd, data, size) }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { CALL(count_descriptor("write", fd), pwrite, fd, data, size, at) }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { CALL(count_descriptor("write", fd), pwrite64, fd, data, size, at) }
ssize_t writev(int fd, const struct iovec *parts, int number) { CALL(count_descriptor("write", fd), writev, fd, parts, number) }
ssize_t sendfile64(int to, int from, off64_t *at, size_t size);
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { CALL(count_descriptor("write", to), sendfile64, to, from, at, size) }
ssize_t copy_file_range(int from, off64_t *in, int to, off64_t *out, size_t size, unsigned flags) { CALL(count_descriptor("write", to), copy_file_range, from, in, to, out, size, flags) }
int ftruncate64(int fd, off64_t size) { CALL(count_descriptor("write", fd), ftruncate64, fd, size) }
int fsync(int fd) { CALL(count_descriptor("fsync", fd), fsync, fd) }
int fdatasync(int fd) { CALL(count_descriptor("fsync", fd), fdatasync, fd) }
int rename(const char *from, const char *to) { CALL(count("rename", to), rename, from, to) }
int renameat(int at, const char *from, int there, const char *to) { CALL(count("rename", to), renameat, at, from, there, to) }
int renameat2(int at, const char *from, int there, const char *to, unsigned flags) { CALL(count("rename", to), renameat2, at, from, there, to, flags) }
