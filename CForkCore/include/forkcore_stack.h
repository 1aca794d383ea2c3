// SPDX-License-Identifier: Apache-2.0
//
// A stack for a parent's loop. What is said at the head of forkcore.h holds here.

#ifndef FORKCORE_STACK_H
#define FORKCORE_STACK_H

#include "forkcore.h"

#ifdef __cplusplus
extern "C" {
#endif

/// A stack of which children get no copy.
struct forkcore_stack;

/// Makes one of as many bytes as the main thread's may have, from 8 MiB to 1 GiB; memory is taken as it is used.
/// Parent. mmap(2)'s errno; ENOTSUP on machines that this was not written for.
int forkcore_stack_open(struct forkcore_stack **stack);

/// Gives it back. Parent, on another stack.
void forkcore_stack_close(struct forkcore_stack *stack);

/// Calls `body` on it, and returns when that does; on such a stack already, this one or another, and without one
/// (NULL), it simply calls it. Parent, one thread at a time.
///
/// A child that is forked from within `body` by libc's fork() has a copy of it all the same: then the stack is one that
/// children get, for that moment. One that is made past that, by _Fork(3) or clone(2) with memory of its own, has none.
void forkcore_stack_run(struct forkcore_stack *stack, void (*body)(void *), void *context);

/// Forks, as forkcore_fork does, from within forkcore_stack_run. The child calls `body` where forkcore_stack_run was
/// called from, with a copy of the `size` bytes at `start`, and ends with its result. It has nothing of the stack that
/// the parent is on; but where forkcore_stack_run has simply called, it goes on below the caller, as any child.
///
/// Parent: returns 0 and stores the pid, or returns fork's errno; EINVAL for more than 2,048 bytes.
int forkcore_stack_fork(struct forkcore_stack *stack, const struct forkcore_child_plan *plan, const void *start, size_t size,
                        int (*body)(const void *), pid_t *child);

#ifdef __cplusplus
}
#endif

#endif
