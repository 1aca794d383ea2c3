// SPDX-License-Identifier: Apache-2.0
//
// forkbench's C part: the ways to fork and reap that ChildTable is compared with, as lean as C can make them, and what
// Swift's Glibc does not have (epoll, pidfd_open).
//
// Every function returns 0 or an errno value, unless it says otherwise. None allocates. EINTR never comes out. All run in
// the parent, on its one thread, except forkbench_idle.

#ifndef FORKBENCH_H
#define FORKBENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// ------------------------------------------------------------------------------------------------------------ forking

/// Two pipes. Idle children say on the one that they run, and wait at the other's end until the parent closes it.
struct forkbench_gate {
    int ready_read;
    int ready_write;
    int gate_read;
    int gate_write;
};

/// fork(2), and `_exit(0)` as all that the child does. Nothing is blocked, flushed, closed or grouped: no fork that a
/// server can use costs less.
int forkbench_fork(pid_t *child);

/// fork(2) of a child that runs forkbench_idle and then ends.
int forkbench_fork_idle(const struct forkbench_gate *gate, pid_t *child);

/// Child: says that it runs, and returns when the gate is open, or the parent is gone, which opens it too.
void forkbench_idle(const struct forkbench_gate *gate);

// ------------------------------------------------------------------------------------------------------------ reaping

/// Whether the kernel reaps all children itself (SA_NOCLDWAIT for SIGCHLD), or leaves them to be waited for (the default).
int forkbench_let_kernel_reap(bool on);

/// Waits until a child that the kernel reaps is gone. waitpid(2) fails with ECHILD then: that is the expected end.
int forkbench_wait_until_gone(pid_t child);

/// waitpid(-1, WNOHANG) until it has no more to give. Adds to `*reaped`.
int forkbench_reap_any(size_t *reaped);

/// One waitpid(pid, WNOHANG) for each of `*count` pids. Those that were reaped leave the array, the others close up.
int forkbench_reap_by_name(pid_t *pids, size_t *count);

/// Waits for `count` children, whichever they are.
int forkbench_wait_for(size_t count);

// ------------------------------------------------------------------------------------------------------------- pidfds

enum { FORKBENCH_READY_MAX = 64 };

/// A pidfd per child, all in one epoll instance. Private to the functions below.
struct forkbench_pidfds {
    int epoll;
    size_t ready_count;
    uint64_t ready[FORKBENCH_READY_MAX]; ///< the pidfd in the upper half, its child in the lower
};

/// forkbench_pidfds_close ends what this begins.
int forkbench_pidfds_open(struct forkbench_pidfds *pidfds);
void forkbench_pidfds_close(struct forkbench_pidfds *pidfds);

/// pidfd_open(2) for a new child, and watches it.
int forkbench_pidfds_watch(struct forkbench_pidfds *pidfds, pid_t child);

/// Waits until children have ended, and notes which, up to FORKBENCH_READY_MAX. epoll_wait(2).
int forkbench_pidfds_wait(struct forkbench_pidfds *pidfds);

/// Reaps the children that forkbench_pidfds_wait has noted, and closes their pidfds. Adds to `*reaped`.
int forkbench_pidfds_reap(struct forkbench_pidfds *pidfds, size_t *reaped);

#endif
