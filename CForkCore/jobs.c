// SPDX-License-Identifier: Apache-2.0
//
// A queue that any thread adds to, and one takes from: a stack without a lock, whose taker takes it whole and turns it
// over. Child.

#include "internal.h"

#include "forkcore_jobs.h"
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WAIT_UNTIL = 9, WAKE = 1, PRIVATE = 128 }; // FUTEX_WAIT_BITSET, …: linux/futex.h, which not every libc comes with

static _Atomic(struct forkcore_job *) newest;

// Whether the taker waits: a futex, whose value the taker sets and everyone else resets.
enum { AWAKE, ASLEEP, WOKEN };
static _Atomic uint32_t taker;

void forkcore_jobs_wake(void)
{
    if (atomic_exchange(&taker, WOKEN) == ASLEEP)
        syscall(SYS_futex, &taker, WAKE | PRIVATE, 1, NULL, NULL, 0);
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
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000), .tv_nsec = until_ns % 1000000000};
    if (!atomic_load(&newest))
        syscall(SYS_futex, &taker, WAIT_UNTIL | PRIVATE, ASLEEP, &until, NULL, UINT32_MAX);
}

struct forkcore_job *forkcore_jobs_take(int64_t until_ns)
{
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
