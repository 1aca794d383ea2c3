// SPDX-License-Identifier: Apache-2.0
//
// What a pool's parent and its workers share: memory, events, and the request to drain.

#include "internal.h"

#include <errno.h>
#ifdef __GLIBC__
#include <execinfo.h>
#endif
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int forkcore_shared_open(size_t size, void **memory)
{
    *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return *memory == MAP_FAILED ? errno : 0;
}

int forkcore_shared_withhold(void *memory, size_t size)
{
    return madvise(memory, size, MADV_DONTFORK) != 0 ? errno : 0;
}

void forkcore_shared_close(void *memory, size_t size)
{
    munmap(memory, size);
}

int forkcore_poll_add_exclusive(int descriptor, int watched, uint64_t token)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data = {.u64 = token}};
    return epoll_ctl(descriptor, EPOLL_CTL_ADD, watched, &event) != 0 ? errno : 0;
}

int forkcore_poll_wait(int descriptor, int timeout_ms, uint64_t *token)
{
    struct epoll_event event;
    *token = UINT64_MAX;
    int got = epoll_wait(descriptor, &event, 1, timeout_ms);
    if (got > 0)
        *token = event.data.u64;
    return got < 0 && errno != EINTR ? errno : 0;
}

int forkcore_lifeline_open(int *parents, int *workers)
{
    int error = forkcore_channel_open(parents, workers);
    if (error == 0)
        shutdown(*parents, SHUT_RD); // the worker can send nothing, and above all no descriptors
    return error;
}

int forkcore_tie_open(int *parents, int *workers)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return errno;
    *workers = ends[0];
    *parents = ends[1];
    return 0;
}

// When the pipe is closed, the kernel checks whether the caller of F_SETOWN, with its credentials of that time, may kill
// us. PR_SET_PDEATHSIG would be reset when credentials change.
int forkcore_tie(int descriptor)
{
    return fcntl(descriptor, F_SETSIG, SIGKILL) < 0 || fcntl(descriptor, F_SETOWN, getpid()) < 0
               || fcntl(descriptor, F_SETFL, O_ASYNC) < 0
           ? errno
           : 0;
}

int forkcore_end_after(int64_t time_ns)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
    struct itimerspec when = {.it_value = {.tv_sec = time_ns / 1000000000, .tv_nsec = time_ns % 1000000000}};
    if (time_ns <= 0)
        when.it_value = (struct timespec){.tv_nsec = 1};
    return timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 || timer_settime(timer, 0, &when, NULL) != 0 ? errno : 0;
}

static _Atomic uint32_t *drain;
static int lifeline, wake_event;
static pid_t worker;

static void end_by(int number)
{
    sigaction(number, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
    raise(number); // blocked until the handler has returned
}

// The first SIGTERM only asks to drain, even if the parent has asked already: a service manager may send SIGTERM to all
// processes of a service.
static void ask_to_drain(int number)
{
    int error = errno;
    if (getpid() != worker) {
        end_by(number); // a child of the worker inherits this handler, and shares flag and socket
    } else if ((atomic_fetch_or(drain, FORKCORE_DRAIN_SIGNALLED) & FORKCORE_DRAIN_SIGNALLED) == 0) {
        shutdown(lifeline, SHUT_RD);
        forkcore_event_add(wake_event, 1);
    } else {
        end_by(number);
    }
    errno = error;
}

int forkcore_drain_on_term(uint32_t *word, int descriptor, int event)
{
    drain = (_Atomic uint32_t *)word;
    lifeline = descriptor;
    wake_event = event;
    worker = getpid();
    struct sigaction action = {.sa_handler = ask_to_drain, .sa_flags = SA_RESTART};
    return sigaction(SIGTERM, &action, NULL) != 0 ? errno : 0;
}

#ifdef __GLIBC__

static void tell_where(int number)
{
    void *frames[32];
    int count = backtrace(frames, sizeof frames / sizeof frames[0]);
    dprintf(STDERR_FILENO, "process %d was stuck here:\n", (int)getpid());
    backtrace_symbols_fd(frames, count, STDERR_FILENO);
    sigaction(number, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
    raise(number);
}

void forkcore_tell_where_on_abort(void)
{
    void *frame;
    backtrace(&frame, 1); // loads the libraries that it needs now, not in the handler
    sigaction(SIGABRT, &(struct sigaction){.sa_handler = tell_where}, NULL);
}

#else

void forkcore_tell_where_on_abort(void) {}

#endif
