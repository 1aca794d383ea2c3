// SPDX-License-Identifier: Apache-2.0
//
// What `forkbench serve` does in C: the load that it puts on servers, and starting them. All of it runs in forkbench's
// one thread. Functions return 0 or an errno value; none logs.

#ifndef FORKBENCH_SERVE_H
#define FORKBENCH_SERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// -------------------------------------------------------------------------------------------------------- the load

/// Clients in closed loop: each opens a new connection to 127.0.0.1:`port` as soon as its last one has ended.
struct forkbench_load {
    uint16_t port;
    size_t clients;
    uint64_t warm_up_ns;  ///< how long connections are made, but not counted
    uint64_t measure_ns;  ///< then: how long those that end are counted
    uint64_t patience_ns; ///< a connection that has not ended by then has failed
    uint64_t *latencies;  ///< room for `capacity` of them, in ns; when it is full the measurement ends early
    size_t capacity;

    size_t counted;       ///< connections that ended within the measurement; as many latencies
    uint64_t elapsed_ns;  ///< how long the measurement was
    size_t completed;     ///< connections that ended well, counted or not
    size_t failed;        ///< those that did not
    int failure;          ///< errno of the first that failed; EPROTO: the answer was wrong or cut short
};

/// Puts the load on, and returns when the last connection has ended. EINTR after a signal; no connection is open then.
int forkbench_run_load(struct forkbench_load *load);

/// Opens a connection, exchanges a line, and closes it. Returns as forkbench_hold does.
int forkbench_exchange(uint16_t port, uint64_t limit_ns);

/// A process that holds connections, so that there can be more of them than one process may have descriptors.
struct forkbench_holder {
    pid_t pid;
    int channel;
    size_t held;
};

/// Starts one, which opens `count` connections, exchanges a line on each, and holds them. Also on failure the caller has it let
/// go: ETIMEDOUT when `limit_ns` has passed, EINTR after a signal, else what the first connection failed with.
int forkbench_hold(uint16_t port, size_t count, uint64_t limit_ns, struct forkbench_holder *holder);

/// How many of its connections the server has ended, or has sent something on; all, if it has ended itself.
size_t forkbench_count_lost(const struct forkbench_holder *holder);

/// Closes them, and ends it.
void forkbench_let_go(struct forkbench_holder *holder);

// ------------------------------------------------------------------------------------------------------- processes

/// Starts a program with stdin /dev/null in a process group of its own, which it leads. It dies with forkbench.
/// The caller owns `output` and `errors`, which become its stdout and stderr.
int forkbench_spawn(char *const arguments[], int output, int errors, pid_t *pid);

/// Orphans of processes that this one started become its own children, so that it can end and reap them.
int forkbench_adopt_orphans(void);

/// From now on SIGINT, SIGTERM and SIGHUP interrupt what forkbench waits for, and are remembered.
int forkbench_remember_signals(void);
/// The signal that came, or 0.
int forkbench_signal(void);

/// Ends by this signal, as if it had never been caught.
_Noreturn void forkbench_die_by(int signal);

/// pipe2(2) and memfd_create(2), close-on-exec.
int forkbench_pipe(int ends[2]);
int forkbench_memory_file(int *descriptor);

/// How many processors this process may run on. sched_getaffinity(2).
size_t forkbench_processors(void);

/// A port of 127.0.0.1 that is free at this moment.
int forkbench_free_port(uint16_t *port);

/// Whether something listens on this port of 127.0.0.1; one connection is made and closed.
bool forkbench_is_listening(uint16_t port);

#endif
