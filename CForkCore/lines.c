// SPDX-License-Identifier: Apache-2.0
//
// Writes lines without waiting for their reader. Any process. A server has one thread: if write(2) blocked because the
// reader of its log stands still, it would serve no client, and obey no request to stop. O_NONBLOCK is no solution,
// because it belongs to the open file description, which the process that started the server and all programs that run
// here share.

#include "internal.h"

#include "forkcore_lines.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif

// ------------------------------------------------------------------------------------- signals that a write can raise

struct guard {
    sigset_t mask, pending;
};

static void begin(struct guard *guard)
{
    sigset_t raised;
    sigemptyset(&raised);
    sigaddset(&raised, SIGPIPE);
    sigaddset(&raised, SIGXFSZ);
    sigaddset(&raised, SIGTTOU); // if it is blocked, the terminal lets a background process write
    pthread_sigmask(SIG_BLOCK, &raised, &guard->mask);
    sigpending(&guard->pending);
}

// Discards the signal that this thread's own write has raised, but not one that was pending before.
static void end(const struct guard *guard, int error)
{
    int number = error == EPIPE ? SIGPIPE : error == EFBIG ? SIGXFSZ : 0;
    if (number != 0 && !sigismember(&guard->pending, number)) {
        sigset_t raised;
        sigemptyset(&raised);
        sigaddset(&raised, number);
        while (sigtimedwait(&raised, NULL, &(struct timespec){0}) < 0 && errno == EINTR) {}
    }
    pthread_sigmask(SIG_SETMASK, &guard->mask, NULL);
}

int forkcore_write_all(int descriptor, const void *bytes, size_t count)
{
    const char *next = bytes;
    int error = 0;
    struct guard guard;
    begin(&guard);
    while (count > 0 && error == 0) {
        ssize_t written = write(descriptor, next, count);
        if (written < 0 && errno != EINTR)
            error = errno;
        if (written > 0) {
            next += written;
            count -= (size_t)written;
        }
    }
    end(&guard, error);
    return error;
}

uint64_t forkcore_guard_writes(void)
{
    uint64_t guarded = 0;
    struct sigaction before;
    sigset_t limit, mask;
    if (sigaction(SIGPIPE, NULL, &before) == 0 && before.sa_handler == SIG_DFL
        && sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL) == 0)
        guarded |= forkcore_bit(SIGPIPE);
    sigemptyset(&limit);
    sigaddset(&limit, SIGXFSZ);
    if (pthread_sigmask(SIG_BLOCK, &limit, &mask) == 0 && !sigismember(&mask, SIGXFSZ))
        guarded |= forkcore_bit(SIGXFSZ);
    return guarded;
}

void forkcore_unguard_writes(uint64_t guarded)
{
    sigset_t limit;
    if (guarded & forkcore_bit(SIGPIPE))
        sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
    if (!(guarded & forkcore_bit(SIGXFSZ)))
        return;
    sigemptyset(&limit);
    sigaddset(&limit, SIGXFSZ);
    while (sigtimedwait(&limit, NULL, &(struct timespec){0}) < 0 && errno == EINTR) {}
    pthread_sigmask(SIG_UNBLOCK, &limit, NULL);
}

// ------------------------------------------------------------------------------------------------- writing without waiting

// Opens another, non-blocking description of the same pipe or terminal; -1 if it cannot.
static int open_anew(int descriptor)
{
    char path[32] = "/proc/self/fd/";
    char digits[12];
    size_t length = strlen(path), count = 0;
    do {
        digits[count++] = (char)('0' + descriptor % 10);
        descriptor /= 10;
    } while (descriptor > 0);
    while (count > 0)
        path[length++] = digits[--count];
    path[length] = '\0';
    return open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

static ssize_t write_by_another(int descriptor, const void *bytes, size_t count, bool *opened)
{
    int other = open_anew(descriptor);
    *opened = other >= 0;
    if (other < 0)
        return -1;
    ssize_t written = write(other, bytes, count);
    int error = errno;
    close(other);
    errno = error;
    return written;
}

static ssize_t write_where_there_is_room(int descriptor, const void *bytes, size_t count)
{
    struct pollfd polled = {.fd = descriptor, .events = POLLOUT};
    if (poll(&polled, 1, 0) == 1 && (polled.revents & (POLLOUT | POLLERR)))
        return write(descriptor, bytes, count); // POLLOUT means that a pipe has room for PIPE_BUF
    errno = EAGAIN;
    return -1;
}

// Opening this device again would create another terminal.
static bool is_multiplexer(const struct stat *status)
{
    return S_ISCHR(status->st_mode) && status->st_rdev == makedev(5, 2);
}

static ssize_t write_without_waiting(int descriptor, const void *bytes, size_t count)
{
    struct stat status;
    bool opened = false;
    if (fstat(descriptor, &status) != 0)
        return -1;
    if (S_ISSOCK(status.st_mode))
        return send(descriptor, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (!S_ISFIFO(status.st_mode) && !S_ISCHR(status.st_mode))
        return write(descriptor, bytes, count);
    if (S_ISFIFO(status.st_mode)) {
        struct iovec all = {.iov_base = (void *)bytes, .iov_len = count};
        // Without libc, because musl lacks this function. The offset has two halves; -1 in both: no offset.
        ssize_t written = syscall(SYS_pwritev2, descriptor, &all, 1, -1L, -1L, RWF_NOWAIT);
        if (written >= 0 || errno == EAGAIN || errno == EPIPE)
            return written;
    }
    if (!is_multiplexer(&status)) {
        ssize_t written = write_by_another(descriptor, bytes, count, &opened);
        if (opened)
            return written;
    }
    return write_where_there_is_room(descriptor, bytes, count);
}

// ------------------------------------------------------------------------------------------------ lines, and lost lines

// Counts of this process alone: children could write wrong values to a page that they shared. Lines lost on stdout must
// not be reported on stderr, so they are counted apart.
static struct {
    _Atomic pid_t owner;
    _Atomic uint64_t out, others;
    atomic_bool is_torn; // a terminal took only a part of the last line: the next begins with a newline
} lost;

static _Atomic uint64_t *lost_on(int descriptor)
{
    pid_t process = forkcore_process();
    if (atomic_load(&lost.owner) != process) { // a new child has lost nothing yet
        atomic_store(&lost.out, 0);
        atomic_store(&lost.others, 0);
        atomic_store(&lost.owner, process);
    }
    return descriptor == STDOUT_FILENO ? &lost.out : &lost.others;
}

struct line {
    size_t count;
    char bytes[PIPE_BUF];
};

static void append(struct line *line, const char *text, size_t length)
{
    size_t room = sizeof line->bytes - line->count;
    if (length > room)
        length = room;
    memcpy(line->bytes + line->count, text, length);
    line->count += length;
}

// "417 lines were lost"
static void append_number(struct line *line, uint64_t number)
{
    static const char one[] = " line was lost\n", many[] = " lines were lost\n";
    char digits[20];
    size_t count = sizeof digits;
    uint64_t rest = number;
    do {
        digits[--count] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    append(line, digits + count, sizeof digits - count);
    if (number == 1)
        append(line, one, sizeof one - 1);
    else
        append(line, many, sizeof many - 1);
}

static void append_text(struct line *line, const char *text, size_t length)
{
    static const char cut[] = "...";
    size_t room = sizeof line->bytes - line->count - 1;
    if (length > room) {
        length = room - (sizeof cut - 1);
        while (length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80) // do not cut within a character
            length--;
        append(line, text, length);
        append(line, cut, sizeof cut - 1);
    } else {
        append(line, text, length);
    }
    append(line, "\n", 1);
}

bool forkcore_tell(int descriptor, const char *text, size_t length)
{
    _Atomic uint64_t *count = lost_on(descriptor);
    // Writes only if lines were lost, because children share the page.
    uint64_t missed = atomic_load(count) == 0 ? 0 : atomic_exchange(count, 0);
    struct line line;
    struct guard guard;

    line.count = 0;
    if (atomic_load(&lost.is_torn))
        append(&line, "\n", 1);
    if (missed > 0)
        append_number(&line, missed);
    append_text(&line, text, length);
    begin(&guard);
    ssize_t written;
    while ((written = write_without_waiting(descriptor, line.bytes, line.count)) < 0 && errno == EINTR) {}
    end(&guard, written < 0 ? errno : 0);
    if (written == (ssize_t)line.count) {
        if (atomic_load(&lost.is_torn))
            atomic_store(&lost.is_torn, false);
        return true;
    }
    if (written > 0)
        atomic_store(&lost.is_torn, true);
    atomic_fetch_add(count, missed + 1);
    return false;
}
