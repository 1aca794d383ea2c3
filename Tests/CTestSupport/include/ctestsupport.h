// SPDX-License-Identifier: Apache-2.0
//
// System calls that Swift cannot make, for scenarios. Each returns 0 or an errno, unless it says otherwise.

#ifndef CTESTSUPPORT_H
#define CTESTSUPPORT_H

#include <spawn.h>

/// Has the parent trace the calling thread. ptrace(2), PTRACE_TRACEME.
int test_be_traced(void);

/// Traces another process, without stopping it. ptrace(2), PTRACE_SEIZE.
int test_trace(int pid);

/// Lets any process trace this one, where Yama would forbid that. prctl(2).
void test_let_others_trace(void);

/// Makes a child of the parent's that exits at once with `status`; its number, or -1. clone(2), CLONE_PARENT.
int test_make_parents_child(int status);

/// From now on each execve of this process's children waits until it is let go, as where a file system is slow. seccomp(2).
int test_hold_execve(int *descriptor);

/// Lets those go that wait; returns how many there were.
int test_let_execve_go(int descriptor);

/// A thread that has this process's parent trace it, and waits; when it is so.
int test_start_traced_thread(void);

/// Has a program that is started have no descriptors from `first` on. posix_spawn(3).
int test_close_from(int first, posix_spawn_file_actions_t *actions);

#endif
