// SPDX-License-Identifier: Apache-2.0
//
// forkcore_containment: what children start, wherever it goes. See containment.c and watcher.c.

#ifndef FORKCORE_CONTAINMENT_H
#define FORKCORE_CONTAINMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/// From now on a descendant whose parent ends becomes this process's child, in place of process 1's.
/// PR_SET_CHILD_SUBREAPER in prctl(2). Any process. Signal-safe.
int forkcore_take_orphans(void);

/// The list of this process's children, those that became so included. The caller closes it. ENOENT without /proc, or
/// where the kernel was built without CONFIG_PROC_CHILDREN.
///
/// Parent. Signal-safe.
int forkcore_children_open(int *descriptor);

/// Reads numbers from such a list, `*offset` on, which is 0 at first; `*count` is 0 at the end. Who comes or goes
/// meanwhile may be missing. `capacity` is at least 1024.
///
/// Parent. Signal-safe.
int forkcore_children_read(int descriptor, int64_t *offset, pid_t *pids, size_t capacity, size_t *count);

struct forkcore_process_info {
    pid_t parent;
    pid_t group;
    pid_t session;
    int64_t age_ns;
    bool is_zombie;
};

/// What /proc/pid/stat says of a process. ESRCH if there is none. Any process. Signal-safe.
int forkcore_process_look(pid_t pid, struct forkcore_process_info *info);

enum { FORKCORE_DESCENDANTS = 1024 };

/// The children of `pid`, theirs, and so on, as many as `capacity` and FORKCORE_DESCENDANTS let in: those whose parents
/// live. With a `number` other than 0 each gets that signal; with SIGKILL it is first stopped as it is found, so that
/// it starts no more. Who has ended meanwhile gets none, nor does another that has its number, nor one of the process
/// group `spared`, which the caller signals by itself.
///
/// Any process. Signal-safe.
int forkcore_descendants(pid_t pid, int number, pid_t spared, pid_t *pids, size_t capacity, size_t *count);

/// Watches `watched` for what comes after it was last seen to be readable, where forkcore_poll_add watches whether it
/// is. Any process. Signal-safe.
int forkcore_poll_add_edge(int descriptor, int watched, uint64_t token);

// ------------------------------------------------------------------------------------------------------- the watcher

/// A process that outlives its parent, to end what that one's children are and have started.
struct forkcore_watcher;

/// Forks it. fork(2)'s and mmap(2)'s errno.
///
/// Parent. Not signal-safe.
int forkcore_watcher_open(size_t capacity, struct forkcore_watcher **watcher);

/// Where the parent, and before it each child as the first thing it does, writes whom to end: `capacity` pids, each a
/// child of the parent's, or 0.
pid_t *forkcore_watcher_roster(struct forkcore_watcher *watcher);

/// Forks another if it has ended. Returns whether so. Parent. Not signal-safe.
bool forkcore_watcher_renew(struct forkcore_watcher *watcher);

/// Its pidfd, which stays its own.
int forkcore_watcher_pidfd(const struct forkcore_watcher *watcher);

/// Ends it, and nobody else. Parent: the process that opened it.
void forkcore_watcher_close(struct forkcore_watcher *watcher);

#ifdef __cplusplus
}
#endif

#endif
