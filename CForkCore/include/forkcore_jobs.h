// SPDX-License-Identifier: Apache-2.0
//
// forkcore, continued: the jobs that any thread gives to the one that runs them. The rules of forkcore.h apply here.

#ifndef FORKCORE_JOBS_H
#define FORKCORE_JOBS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// A job of Swift Concurrency's, as the runtime lays it out: SwiftJob in the toolchain's swift/ExecutorImpl.h. The two
/// words in the middle belong to the executor that has the job, so a queue of jobs needs no memory of its own.
struct forkcore_job {
    const void *metadata;
    uintptr_t references;
    struct forkcore_job *next;
    uintptr_t word; ///< forkcore_jobs_add stores it, and nothing here reads it
};

/// Gives `job` to the process's queue of jobs, and wakes the thread that waits in forkcore_jobs_take.
///
/// Any process, any thread. Takes no lock. Signal-safe.
void forkcore_jobs_add(struct forkcore_job *job, uintptr_t word);

/// Takes all jobs from the queue, the oldest first, linked by `next`. If there are none, it first waits: until there is
/// one, until forkcore_jobs_wake, or until CLOCK_MONOTONIC has reached `until_ns`. Then NULL means that there is still
/// none; it may also be returned for no reason. futex(2)
///
/// Any process, one thread. Uses no descriptor. Signal-safe.
struct forkcore_job *forkcore_jobs_take(int64_t until_ns);

/// From now on a forkcore_jobs_take that waits also returns when `descriptor` is readable, or its other end has closed.
/// `event`, of forkcore_event_open, is what wakes it for other threads then. Any process, once, before other threads add
/// jobs. ppoll(2)
void forkcore_jobs_watch(int descriptor, int event);

/// Whether the last forkcore_jobs_take has returned because of that. The same thread. Signal-safe.
bool forkcore_jobs_is_readable(void);

/// Makes a forkcore_jobs_take that waits return; if none does, then the next one does not wait. Any thread.
/// Signal-safe.
void forkcore_jobs_wake(void);

#ifdef __cplusplus
}
#endif

#endif
