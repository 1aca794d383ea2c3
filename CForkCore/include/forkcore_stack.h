// SPDX-License-Identifier: Apache-2.0
//
// A stack for a parent's loop. The rules at the beginning of forkcore.h apply here.

#ifndef FORKCORE_STACK_H
#define FORKCORE_STACK_H

#include "forkcore.h"

#ifdef __cplusplus
extern "C" {
#endif

/// A stack that forks do not copy.
struct forkcore_stack;

/// Makes a stack as large as the main thread's limit, but from 8 MiB to 1 GiB; only pages that are used take memory.
/// Parent. Returns mmap(2)'s errno; ENOTSUP on machines for which there is no code.
int forkcore_stack_open(struct forkcore_stack **stack);

/// Frees the stack. Parent, on another stack.
void forkcore_stack_close(struct forkcore_stack *stack);

/// Calls `body` on the stack, and returns when it returns. Without a stack (NULL), or on such a stack already, it just
/// calls `body`. Parent, one thread at a time.
///
/// A child that `body` forks by libc's fork() gets a copy of the stack, which is made copyable for that moment. A child
/// made without libc, by _Fork(3) or by clone(2) without CLONE_VM, has no copy.
void forkcore_stack_run(struct forkcore_stack *stack, void (*body)(void *), void *context);

/// Forks, as forkcore_fork does, from within forkcore_stack_run. The child calls `body` at the place on the stack where
/// forkcore_stack_run was called from, with a copy of the `size` bytes at `start`, and ends with its result. It has
/// nothing of the stack that the parent is on. But if forkcore_stack_run has not switched stacks, the child goes on
/// below the caller, like any child.
///
/// Parent: returns 0 and stores the pid, or returns fork's errno; EINVAL for more than 2,048 bytes.
int forkcore_stack_fork(struct forkcore_stack *stack, const struct forkcore_child_plan *plan, const void *start, size_t size,
                        int (*body)(const void *), pid_t *child);

#ifdef __cplusplus
}
#endif

#endif
