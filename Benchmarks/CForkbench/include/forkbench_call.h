// SPDX-License-Identifier: Apache-2.0
//
// What the hosts of `forkbench zygote` do in C. Functions return 0 or an errno value, unless they say otherwise.

#ifndef FORKBENCH_CALL_H
#define FORKBENCH_CALL_H

#include <stddef.h>
#include <sys/types.h>

/// fork(2) of a child that runs `body`, and then `_exit(0)`. It dies with the thread that called this, so that one which
/// hangs outlives nobody; nothing else is done for it that fork(2) does not do.
int forkbench_fork_running(void (*body)(void *), void *context, pid_t *child);

/// Has this process occupy so many bytes more, for good: anonymous memory, every page of it written to, in pages of 4 KiB.
int forkbench_occupy(size_t bytes);

#endif
