// SPDX-License-Identifier: Apache-2.0
//
// What a pool's parent and its workers have between them. As forkcore.h says of itself: 0 or an errno, nothing allocated,
// every descriptor close-on-exec.

#ifndef FORKCORE_WORKERS_H
#define FORKCORE_WORKERS_H

#include "forkcore.h"

#ifdef __cplusplus
extern "C" {
#endif

// ----------------------------------------------------------------------------------------------------------- workers
// In a worker, and signal-safe, unless said otherwise.

/// Memory that a parent and the next child have in common, zero at first. mmap(2) with MAP_SHARED. Any process.
int forkcore_shared_open(size_t size, void **memory);

/// Later children get no copy of it: a worker can then write to nobody's but its own. Parent, after the fork.
/// madvise(2) with MADV_DONTFORK.
int forkcore_shared_withhold(void *memory, size_t size);

/// Any process; the other's mapping stays.
void forkcore_shared_close(void *memory, size_t size);

/// As forkcore_poll_add, for a descriptor that several processes wait for: news of it wakes one of them. EPOLLEXCLUSIVE.
/// Whoever was woken is to look before it leaves: the others were not.
int forkcore_poll_add_exclusive(int descriptor, int watched, uint64_t token);

/// Waits until one of what is watched is readable, a signal handler has run, or `timeout_ms` have passed (-1: for ever); its
/// token, or UINT64_MAX. epoll_wait(2); to wait for the instance by poll(2) would wake all for whom news is exclusive.
int forkcore_poll_wait(int descriptor, int timeout_ms, uint64_t *token);

/// A pair of sockets: when the parent closes its end, the worker's is readable, at its end. The worker can send nothing that
/// way. The caller closes both. socketpair(2), shutdown(2). Parent.
int forkcore_lifeline_open(int *parents, int *workers);

/// A pipe, for forkcore_tie. The caller closes both ends. pipe2(2). Parent.
int forkcore_tie_open(int *parents, int *workers);

/// From now on this process gets SIGKILL when the other end of `descriptor`, from forkcore_tie_open, is closed, as it is when
/// the parent ends. Unlike PR_SET_PDEATHSIG that outlasts a change of rights, if they were root's or stay the same user's.
/// F_SETSIG, F_SETOWN and O_ASYNC in fcntl(2).
int forkcore_tie(int descriptor);

/// This process gets SIGKILL after this time, whatever it does meanwhile. timer_create(2). Not signal-safe.
int forkcore_end_after(int64_t time_ns);

/// Why a worker is to drain.
enum {
    FORKCORE_DRAIN_ASKED = 1,     ///< its parent says so
    FORKCORE_DRAIN_SIGNALLED = 2, ///< SIGTERM has come; the next one ends it
};

/// From now on the first SIGTERM sets FORKCORE_DRAIN_SIGNALLED in `*word`, makes `descriptor`, a socket of a pair, readable, and
/// adds 1 to `event`. When that is set already, SIGTERM ends the process as ever. Once. sigaction(2), shutdown(2).
int forkcore_drain_on_term(uint32_t *word, int descriptor, int event);

/// From now on SIGABRT prints the calling stack on stderr, some lines of it, before it ends the process. backtrace(3), which is
/// signal-safe but where the process was just loading a library: then SIGKILL has to end it. Nothing but with glibc.
/// Not signal-safe.
void forkcore_tell_where_on_abort(void);

#ifdef __cplusplus
}
#endif

#endif
