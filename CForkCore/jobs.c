// SPDX-License-Identifier: Apache-2.0
//
// A queue that any thread adds to, and one takes from: a stack without a lock, whose taker takes it whole and turns it
// over. Child.

#include "internal.h"

#include "forkcore_jobs.h"

#include <poll.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_UNTIL = 9, WAKE = 1, PRIVATE = 128 }; // FUTEX_WAIT_BITSET, …: linux/futex.h, which not every libc comes with

static _Atomic(struct forkcore_job *) newest;

// What a taker also waits for, and how other threads wake one that does; -1: nothing, and by the futex.
static int watched = -1, bell = -1;
static bool is_readable;

// Whether the taker waits: a futex, whose value the taker sets and everyone else resets.
enum { AWAKE, ASLEEP, WOKEN };
static _Atomic uint32_t taker;

void forkcore_jobs_wake(void)
{
    if (atomic_exchange(&taker, WOKEN) != ASLEEP)
        return;
    if (bell >= 0)
        forkcore_event_add(bell, 1);
    else
        syscall(SYS_futex, &taker, WAKE | PRIVATE, 1, NULL, NULL, 0);
}

void forkcore_jobs_watch(int descriptor, int event)
{
    watched = descriptor;
    bell = event;
}

bool forkcore_jobs_is_readable(void)
{
    return is_readable;
}

static struct timespec time_of(int64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = ns % 1000000000};
}

static void poll_until(int64_t until_ns)
{
    struct pollfd polled[] = {{.fd = watched, .events = POLLIN}, {.fd = bell, .events = POLLIN}};
    int64_t now = forkcore_now();
    struct timespec rest = time_of(until_ns > now ? until_ns - now : 0);
    if (ppoll(polled, 2, &rest, NULL) <= 0)
        return;
    is_readable = polled[0].revents != 0;
    if (polled[1].revents != 0)
        forkcore_event_take(bell);
}

void forkcore_jobs_add(struct forkcore_job *job, uintptr_t word)
{
    job->word = word;
    job->next = atomic_load(&newest);
    while (!atomic_compare_exchange_weak(&newest, &job->next, job))
        ;
    // A taker that is about to wait says so first, and looks for jobs afterwards: one of the two sees the other.
    if (atomic_load(&taker) == ASLEEP)
        forkcore_jobs_wake();
}

static void wait_until(int64_t until_ns)
{
    uint32_t awake = AWAKE;
    if (!atomic_compare_exchange_strong(&taker, &awake, ASLEEP))
        return; // it was woken in advance
    struct timespec until = time_of(until_ns);
    if (atomic_load(&newest))
        return;
    if (bell >= 0)
        poll_until(until_ns);
    else
        syscall(SYS_futex, &taker, WAIT_UNTIL | PRIVATE, ASLEEP, &until, NULL, UINT32_MAX);
}

struct forkcore_job *forkcore_jobs_take(int64_t until_ns)
{
    is_readable = false;
    if (!atomic_load(&newest)) {
        wait_until(until_ns);
        atomic_store(&taker, AWAKE);
    }
    struct forkcore_job *oldest = NULL;
    for (struct forkcore_job *job = atomic_exchange(&newest, NULL), *older; job; job = older) {
        older = job->next;
        job->next = oldest;
        oldest = job;
    }
    return oldest;
}
