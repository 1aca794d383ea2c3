// SPDX-License-Identifier: Apache-2.0
//
// The C core, tested from C. Each test runs in a process of its own, which must leave no descriptor and no child
// behind.

#ifndef FORKCORE_TEST_H
#define FORKCORE_TEST_H

#define _GNU_SOURCE

#include "forkcore.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct test {
    const char *name;
    void (*run)(void);
};

/// Each ends with an empty one.
extern const struct test process_tests[], child_tests[], event_tests[], socket_tests[], transfer_tests[], mark_tests[],
    program_tests[], held_tests[], channel_tests[], queue_tests[], message_tests[], limit_tests[], line_tests[],
    worker_tests[], rights_tests[], identity_tests[], stack_tests[], jobs_tests[], memory_tests[];

/// Ends the test, as failed, unless `condition` holds.
#define CHECK(condition) check((condition), #condition, __FILE__, __LINE__)
void check(bool condition, const char *text, const char *file, int line);

static inline uint64_t bit(int number) { return (uint64_t)1 << (number - 1); }

/// Forks with `plan`; the child ends with what `body` returns.
int try_to_start(const struct forkcore_child_plan *plan, int (*body)(void *), void *context, pid_t *pid);
/// The same, with `plan` or an empty one; it must succeed.
pid_t start(const struct forkcore_child_plan *plan, int (*body)(void *), void *context);
/// Waits until `pid` has ended, leaving it a zombie.
void await_zombie(pid_t pid);
/// Waits for and reaps `pid`.
struct forkcore_ending await_end(pid_t pid);
/// A body that reads from the descriptor at `context` until it ends.
int wait_for_gate(void *context);

/// A pipe; its ends are closed by open_gate, or singly.
struct gate {
    int ends[2];
};
struct gate make_gate(void);
void close_gate(struct gate gate);

/// SIGALRM five thousand times a second, with a handler and without SA_RESTART.
void start_storm(void);
int storm_count(void);
void stop_storm(void);

bool is_blocked(int number);
int open_descriptors(void);
enum { FEW = 16 };
/// Opens descriptors until there are no more; returns how many.
int use_up(int taken[FEW]);
/// Memory that children share with us.
void *shared_memory(void);
/// Waits for input, up to `timeout_ms`.
bool is_readable(int descriptor, int timeout_ms);

#endif
