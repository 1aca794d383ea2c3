// SPDX-License-Identifier: Apache-2.0
//
// Signals, requests to stop, and timers, all as descriptors that can be polled. Any process.

#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 16 };

static sigset_t set_of(uint64_t signals)
{
    sigset_t set;
    sigemptyset(&set);
    for (int number = 1; number <= FORKCORE_SIGNALS; number++)
        if (signals & forkcore_bit(number))
            sigaddset(&set, number);
    return set;
}

int forkcore_signals_open(uint64_t signals, int *descriptor, uint64_t *blocked)
{
    sigset_t wanted = set_of(signals), before;
    int error = pthread_sigmask(SIG_BLOCK, &wanted, &before);
    if (error != 0)
        return error;
    *blocked = 0;
    for (int number = 1; number <= FORKCORE_SIGNALS; number++)
        if ((signals & forkcore_bit(number)) && sigismember(&before, number) == 0)
            *blocked |= forkcore_bit(number);
    *descriptor = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
    if (*descriptor >= 0)
        return 0;
    error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

int forkcore_signals_read(int descriptor, struct forkcore_signal *signals, size_t capacity, size_t *count)
{
    struct signalfd_siginfo taken[FORKCORE_SIGNALS_AT_ONCE];
    size_t room = capacity < FORKCORE_SIGNALS_AT_ONCE ? capacity : FORKCORE_SIGNALS_AT_ONCE;
    ssize_t got;

    *count = 0;
    while ((got = read(descriptor, taken, room * sizeof taken[0])) < 0)
        if (errno != EINTR)
            return errno == EAGAIN ? 0 : errno;
    *count = (size_t)got / sizeof taken[0];
    for (size_t i = 0; i < *count; i++)
        signals[i] = (struct forkcore_signal){(int)taken[i].ssi_signo, (pid_t)taken[i].ssi_pid};
    return 0;
}

void forkcore_signals_close(int descriptor, uint64_t blocked)
{
    // A signal that came after the last read would otherwise act by its default as soon as it is unblocked.
    struct forkcore_signal late[FORKCORE_SIGNALS_AT_ONCE];
    size_t count;
    while (forkcore_signals_read(descriptor, late, FORKCORE_SIGNALS_AT_ONCE, &count) == 0 && count > 0) {}
    forkcore_close(descriptor);
    sigset_t set = set_of(blocked);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

// Those of `signals` that are ignored, or with `ignored` false those that have a handler.
static uint64_t not_default(uint64_t signals, bool ignored)
{
    uint64_t found = 0;
    for (int number = 1; number <= FORKCORE_SIGNALS; number++) {
        struct sigaction action;
        if ((signals & forkcore_bit(number)) && sigaction(number, NULL, &action) == 0 && action.sa_handler != SIG_DFL
            && (action.sa_handler == SIG_IGN) == ignored)
            found |= forkcore_bit(number);
    }
    return found;
}

uint64_t forkcore_signals_handled(uint64_t signals)
{
    return not_default(signals, false);
}

uint64_t forkcore_signals_ignored(uint64_t signals)
{
    return not_default(signals, true);
}

int forkcore_keep_zombies(void)
{
    struct sigaction action;
    if (sigaction(SIGCHLD, NULL, &action) != 0)
        return errno;
    if (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN)
        return EBUSY;
    if (action.sa_handler == SIG_DFL && !(action.sa_flags & SA_NOCLDWAIT))
        return 0;
    return sigaction(SIGCHLD, &(struct sigaction){.sa_handler = SIG_DFL}, NULL) != 0 ? errno : 0;
}

int forkcore_event_open(int *descriptor)
{
    *descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return *descriptor < 0 ? errno : 0;
}

void forkcore_event_add(int descriptor, uint64_t value)
{
    int kept = errno;
    while (write(descriptor, &value, sizeof value) < 0 && errno == EINTR) {}
    errno = kept;
}

uint64_t forkcore_event_take(int descriptor)
{
    uint64_t value = 0;
    ssize_t got;
    while ((got = read(descriptor, &value, sizeof value)) < 0 && errno == EINTR) {}
    return got == (ssize_t)sizeof value ? value : 0;
}

int forkcore_timer_open(int *descriptor)
{
    *descriptor = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    return *descriptor < 0 ? errno : 0;
}

int forkcore_timer_set(int descriptor, int64_t at)
{
    // Setting a timer also discards an expiry that was not read.
    struct itimerspec when = {.it_value = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000}};
    return timerfd_settime(descriptor, TFD_TIMER_ABSTIME, &when, NULL) != 0 ? errno : 0;
}

int forkcore_poll_open(int *descriptor)
{
    *descriptor = epoll_create1(EPOLL_CLOEXEC);
    return *descriptor < 0 ? errno : 0;
}

int forkcore_poll_add(int descriptor, int watched, uint64_t token)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.u64 = token}};
    return epoll_ctl(descriptor, EPOLL_CTL_ADD, watched, &event) != 0 ? errno : 0;
}

void forkcore_poll_remove(int descriptor, int watched)
{
    epoll_ctl(descriptor, EPOLL_CTL_DEL, watched, NULL);
}

int forkcore_poll_ready(int descriptor, uint64_t *tokens, size_t capacity, size_t *count)
{
    struct epoll_event events[BATCH];
    int got;

    *count = 0;
    while ((got = epoll_wait(descriptor, events, capacity < BATCH ? (int)capacity : BATCH, 0)) < 0)
        if (errno != EINTR)
            return errno;
    for (int i = 0; i < got; i++)
        tokens[i] = events[i].data.u64;
    *count = (size_t)got;
    return 0;
}

int forkcore_wait_readable(const int *descriptors, size_t count, int64_t timeout_ns, uint32_t *ready)
{
    struct pollfd polled[8];
    struct timespec timeout = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};

    *ready = 0;
    if (count > sizeof polled / sizeof polled[0])
        return EINVAL;
    for (size_t i = 0; i < count; i++)
        polled[i] = (struct pollfd){.fd = descriptors[i], .events = POLLIN};
    if (ppoll(polled, count, timeout_ns < 0 ? NULL : &timeout, NULL) < 0)
        return errno == EINTR ? 0 : errno;
    for (size_t i = 0; i < count; i++)
        if (polled[i].revents != 0) // the caller must also see an error
            *ready |= (uint32_t)1 << i;
    return 0;
}

void forkcore_close(int descriptor)
{
    close(descriptor);
}
