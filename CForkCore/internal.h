// SPDX-License-Identifier: Apache-2.0
//
// Declarations that the C files share.

#ifndef FORKCORE_INTERNAL_H
#define FORKCORE_INTERNAL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE // accept4, ppoll, struct ucred, wait4
#endif

#include "forkcore.h"

#include <signal.h>
#include <time.h>

enum { FORKCORE_SIGNALS = 64 };

// From now on a bound socket reports for each datagram which of our addresses it was sent to.
int forkcore_tell_destination(int descriptor);

// A child that is forked between lend(true) and lend(false) has the watcher's memory. It enlists itself there before
// its body runs, and unmaps that memory.
void forkcore_watcher_lend(struct forkcore_watcher *watcher, bool is_lent);
void forkcore_watcher_enlist(struct forkcore_watcher *watcher, size_t place);

// Whether forkcore_close_aside has not closed everything yet: a process that copied our descriptors now would get a
// copy of those. Any thread.
bool forkcore_is_closing_aside(void);

// Reads the beginning of a file as a string. Signal-safe.
int forkcore_read_text(const char *path, char *text, size_t size);

// CLOCK_MONOTONIC, in nanoseconds.
static inline int64_t forkcore_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline uint64_t forkcore_bit(int number)
{
    return (uint64_t)1 << (number - 1);
}

// The lowest signal of a set that is not empty.
static inline int forkcore_lowest(uint64_t signals)
{
    return __builtin_ctzll(signals) + 1;
}

#endif
