// SPDX-License-Identifier: Apache-2.0
//
// What `forkbench load` and `forkbench prefork` do in C: HTTP requests in closed loop, and what became of each. It runs
// in forkbench's one thread. Functions return 0 or an errno value; none logs.

#ifndef FORKBENCH_HTTP_H
#define FORKBENCH_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// A request that failed. Times are since the load began.
struct forkbench_failure {
    uint64_t at_ns;
    int code; ///< errno; EPIPE: closed before the answer was complete, EPROTO: what came is no answer
};

/// A request that is there to make a worker of the server fail.
struct forkbench_trap {
    uint64_t at_ns;  ///< when it was sent, since the load began
    uint64_t gap_ns; ///< from then until the next trap (or the end): the longest time without an answer with 200
};

/// Clients in closed loop, each with one connection to 127.0.0.1:`port` at a time and one request on it.
struct forkbench_http {
    uint16_t port;
    size_t connections;
    bool keep_alive;       ///< else each request is on a connection of its own, and says `Connection: close`
    const char *path;
    const char *trap_path; ///< asked for on a connection of its own; NULL: never
    uint64_t trap_every_ns;

    uint64_t warm_up_ns;   ///< how long latencies are not noted yet
    uint64_t measure_ns;   ///< then: how long they are
    size_t request_limit;  ///< after so many requests no more are sent; 0: no limit
    uint64_t pause_ns;     ///< how long a client waits after a failure; else one that is refused would try for ever
    uint64_t patience_ns;  ///< a request that has no complete answer by then has failed

    uint64_t *latencies;   ///< room for `capacity` of them, in ns; when it is full the measurement ends early
    size_t capacity;
    struct forkbench_failure *failures; ///< room for `failures_capacity`; later ones are only counted
    size_t failures_capacity;
    struct forkbench_trap *traps;       ///< room for `traps_capacity`; when it is full no more are sent
    size_t traps_capacity;
    uint32_t *slots;       ///< answers with 200 in each `slot_ns` since the load began; NULL: not wanted
    size_t slot_count;
    uint64_t slot_ns;

    // All of these are over the whole load, but for `counted` and `elapsed_ns`.
    size_t counted;        ///< answers with 200 within the measurement; as many latencies
    uint64_t elapsed_ns;   ///< how long the measurement was
    size_t requests;       ///< answered, other_status and failed together
    size_t answered;       ///< complete answers with 200
    size_t other_status;   ///< complete answers with any other
    size_t failed;         ///< no complete answer came
    /// Sent again on a new connection (RFC 9112, 9.3.1), as the server closed a connection that had carried a request
    /// before, without a byte of an answer. They are no failures, nor requests of their own.
    size_t retried;
    uint64_t longest_gap_ns; ///< the longest time without an answer with 200, from the load's begin to its end
    size_t traps_sent;
    size_t traps_answered; ///< they did no harm
};

/// Puts the load on, and returns when the last request has ended. EINTR after a signal; no connection is open then.
int forkbench_run_http(struct forkbench_http *load);

#endif
