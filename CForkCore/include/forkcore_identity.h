// SPDX-License-Identifier: Apache-2.0
//
// Whom a child acts as, and how soon the kernel ends it when memory is short. What is said at the head of forkcore.h holds
// here.

#ifndef FORKCORE_IDENTITY_H
#define FORKCORE_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// A user, a group and all others: credentials(7). The caller's.
struct forkcore_credentials {
    uint32_t user, group;
    const uint32_t *groups;
    size_t group_count;
};

/// What makes a child another than its parent.
struct forkcore_identity {
    const struct forkcore_credentials *credentials; ///< NULL: the parent's
    bool sets_oom_score;                            ///< to `oom_score`; else it is the parent's
    int oom_score;                                  ///< -1000 to 1000: /proc/pid/oom_score_adj in proc(5)
};

/// Takes an identity on: first the score, which may take rights that are given up then. Returns an errno, and in `*call` what
/// could not be done. setgroups(2), setresgid(2), setresuid(2).
///
/// A child, before PR_SET_PDEATHSIG, which a change of user undoes. By system calls alone: it may share its parent's memory,
/// where libc's setresuid would change the parent's threads. Signal-safe.
int forkcore_take_identity(const struct forkcore_identity *identity, const char **call);

/// Whether a child could take it on: one does, and ends. Returns as forkcore_take_identity does, or clone's errno.
///
/// Parent. Signal-safe. Nobody hears of that child's end.
int forkcore_try_identity(const struct forkcore_identity *identity, const char **call);

#ifdef __cplusplus
}
#endif

#endif
