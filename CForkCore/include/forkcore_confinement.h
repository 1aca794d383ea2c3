// SPDX-License-Identifier: Apache-2.0
//
// Whom a child acts as, what it may use, and how soon the kernel ends it when memory is short. What is said at the head
// of forkcore.h holds here.

#ifndef FORKCORE_CONFINEMENT_H
#define FORKCORE_CONFINEMENT_H

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

/// What a process may use from now on; 0 or false: as before.
struct forkcore_limits {
    uint64_t cpu_seconds;     ///< then SIGXCPU, and SIGKILL a second later. RLIMIT_CPU
    uint64_t memory;          ///< bytes that may be mapped besides those that are now. RLIMIT_AS
    uint64_t open_files;      ///< numbers of descriptors lie below this. RLIMIT_NOFILE
    bool memory_is_all;       ///< `memory` counts what is mapped now, too: for a process that becomes another program
    bool no_new_privileges;   ///< no program gives it any. PR_SET_NO_NEW_PRIVS
    bool no_network;          ///< sockets of the Unix kind only, which takes new privileges too. seccomp(2)
};

/// What a child is, and may do, unlike its parent.
struct forkcore_confinement {
    const struct forkcore_credentials *credentials; ///< NULL: the parent's
    bool sets_oom_score;                            ///< to `oom_score`; else it is the parent's
    int oom_score;                                  ///< -1000 to 1000: /proc/pid/oom_score_adj in proc(5)
    struct forkcore_limits limits;
};

/// Confines the calling process: first the score, which may take rights that are given up next, then the credentials,
/// then the limits. Returns an errno, and in `*call` what could not be done; what came before stays in force.
/// setgroups(2), setresgid(2), setresuid(2), and forkcore_limit.
///
/// A child, before PR_SET_PDEATHSIG, which a change of user undoes. By system calls alone: it may share its parent's
/// memory, where libc's setresuid would change the parent's threads. Signal-safe.
int forkcore_confine(const struct forkcore_confinement *confinement, const char **call);

/// Whether a child could be confined so: one is, and ends. Returns as forkcore_confine does, or clone's errno.
///
/// Parent. Signal-safe. Nobody hears of that child's end.
int forkcore_try_confinement(const struct forkcore_confinement *confinement, const char **call);

/// Takes limits on, by system calls alone. Returns an errno, and in `*call` the call that failed; what came before
/// stays in force.
///
/// Child. Signal-safe.
int forkcore_limit(const struct forkcore_limits *limits, const char **call);

/// Has all threads of this process, and of what is forked from it, allocate from one arena, where libc has several:
/// each would reserve 64 MiB of address space, and with less than that left every block takes pages of its own.
///
/// Any process, before a limit on memory. Not signal-safe.
void forkcore_share_one_arena(void);

#ifdef __cplusplus
}
#endif

#endif
