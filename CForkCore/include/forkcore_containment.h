// SPDX-License-Identifier: Apache-2.0
//
// forkcore_containment: the processes that children start, even those that leave the children's sessions. See
// containment.c and watcher.c.

#ifndef FORKCORE_CONTAINMENT_H
#define FORKCORE_CONTAINMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/// From now on a descendant whose parent ends becomes a child of this process instead of process 1.
/// PR_SET_CHILD_SUBREAPER in prctl(2). Any process. Signal-safe.
int forkcore_take_orphans(void);

/// Opens the list of this process's children, including adopted ones. The caller closes it. ENOENT without /proc, or
/// without CONFIG_PROC_CHILDREN in the kernel.
///
/// Parent. Signal-safe.
int forkcore_children_open(int *descriptor);

/// Reads pids from such a list, from `*offset` on, which is 0 at first; `*count` is 0 at the end. Children that come or
/// go meanwhile may be missing. `capacity` is at least 1024.
///
/// Parent. Signal-safe.
int forkcore_children_read(int descriptor, int64_t *offset, pid_t *pids, size_t capacity, size_t *count);

struct forkcore_process_info {
    pid_t parent;
    pid_t group;
    pid_t session;
    int64_t age_ns;
    bool is_zombie;
    /// It has begun to exit, and perhaps closed some of its descriptors, or is a zombie.
    bool is_ending;
};

/// Reads /proc/pid/stat. ESRCH if there is no such process. Any process. Signal-safe.
int forkcore_process_look(pid_t pid, struct forkcore_process_info *info);

enum { FORKCORE_DESCENDANTS = 1024 };

/// Finds the children of `pid`, their children, and so on, up to `capacity` and FORKCORE_DESCENDANTS; only those whose
/// parents live. If `number` is not 0, sends each of them that signal. With SIGKILL each is stopped when it is found,
/// so that it starts no other process. A process that has ended meanwhile gets no signal, nor does another process with
/// its pid, nor a member of the process group `spared`, which the caller signals itself.
///
/// Any process. Signal-safe.
int forkcore_descendants(pid_t pid, int number, pid_t spared, pid_t *pids, size_t capacity, size_t *count);

/// As forkcore_poll_add, but edge-triggered: reports only input that arrives after the last report. Any process.
/// Signal-safe.
int forkcore_poll_add_edge(int descriptor, int watched, uint64_t token);

// ------------------------------------------------------------------------------------------------------- the watcher

/// A process that outlives its parent, in order to end the parent's children and their descendants.
struct forkcore_watcher;

/// Forks the watcher. Returns fork(2)'s or mmap(2)'s errno.
///
/// Parent. Not signal-safe.
int forkcore_watcher_open(size_t capacity, struct forkcore_watcher **watcher);

/// The list of children to end: `capacity` pids, each a child of the parent, or 0. The parent writes to it, and, before
/// the parent does, each child as its first step.
pid_t *forkcore_watcher_roster(struct forkcore_watcher *watcher);

/// Forks another watcher if it has ended. Returns whether it did so. Parent. Not signal-safe.
bool forkcore_watcher_renew(struct forkcore_watcher *watcher);

/// The watcher's pidfd. The caller must not close it.
int forkcore_watcher_pidfd(const struct forkcore_watcher *watcher);

/// Ends only the watcher. Parent: the process that opened it.
void forkcore_watcher_close(struct forkcore_watcher *watcher);

#ifdef __cplusplus
}
#endif

#endif
