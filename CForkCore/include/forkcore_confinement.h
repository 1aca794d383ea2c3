// SPDX-License-Identifier: Apache-2.0
//
// A child's credentials, its limits, and its OOM score. The rules at the beginning of forkcore.h apply here.

#ifndef FORKCORE_CONFINEMENT_H
#define FORKCORE_CONFINEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// A user, a group and the supplementary groups: credentials(7). The caller owns `groups`.
struct forkcore_credentials {
    uint32_t user, group;
    const uint32_t *groups;
    size_t group_count;
};

/// Limits of a process from now on; 0 or false leaves a limit unchanged.
struct forkcore_limits {
    uint64_t cpu_seconds;     ///< then SIGXCPU, and SIGKILL a second later. RLIMIT_CPU
    uint64_t memory;          ///< bytes that may be mapped in addition to those mapped now. RLIMIT_AS
    uint64_t open_files;      ///< descriptor numbers must be below this. RLIMIT_NOFILE
    bool memory_is_all;       ///< `memory` includes what is mapped now: for a process that will call execve
    bool no_new_privileges;   ///< no program gives it privileges. PR_SET_NO_NEW_PRIVS
    bool no_network;          ///< Unix sockets only; implies no_new_privileges. seccomp(2)
};

/// How a child's privileges and limits differ from its parent's.
struct forkcore_confinement {
    const struct forkcore_credentials *credentials; ///< NULL: the parent's
    bool sets_oom_score;                            ///< to `oom_score`; otherwise the parent's
    int oom_score;                                  ///< -1000 to 1000: /proc/pid/oom_score_adj in proc(5)
    struct forkcore_limits limits;
};

/// Confines the calling process: first the OOM score, which may need privileges that the next step gives up, then the
/// credentials, then the limits. Returns an errno, and stores in `*call` the call that failed; earlier steps stay in
/// force. setgroups(2), setresgid(2), setresuid(2), and forkcore_limit.
///
/// A child, before PR_SET_PDEATHSIG, which a change of user resets. Makes only raw system calls, because the child may
/// share its parent's memory, where libc's setresuid would change the parent's threads. Signal-safe.
int forkcore_confine(const struct forkcore_confinement *confinement, const char **call);

/// Tests whether a child can be confined so, in a child that ends at once. Returns as forkcore_confine does, or clone's
/// errno.
///
/// Parent. Signal-safe. That child's end raises no signal.
int forkcore_try_confinement(const struct forkcore_confinement *confinement, const char **call);

/// Applies limits, by raw system calls only. Returns an errno, and stores in `*call` the call that failed; earlier
/// limits stay in force.
///
/// Child. Signal-safe.
int forkcore_limit(const struct forkcore_limits *limits, const char **call);

/// Makes all threads of this process, and of its children, allocate from one arena, where libc has several. Each arena
/// would reserve 64 MiB of address space, and with less than that left every block would take pages of its own.
///
/// Any process, before a limit on memory. Not signal-safe.
void forkcore_share_one_arena(void);

#ifdef __cplusplus
}
#endif

#endif
