// SPDX-License-Identifier: Apache-2.0

#ifndef FORKBENCH_CLIENT_H
#define FORKBENCH_CLIENT_H

#include <stddef.h>
#include <stdint.h>

enum { LINE_LENGTH = 16 };

enum progress {
    PENDING,  ///< nothing new; wait for the next event
    ANSWERED, ///< the line has come back
    ENDED,    ///< the server has closed; the descriptor is closed too
    FAILED,   ///< `failure` says why; the descriptor is closed
};

/// One connection at a time.
struct client {
    int descriptor; ///< -1: none
    int failure;
    enum { CONNECTING, WAITING, ENDING } stage;
    size_t received;
    uint64_t begun;    ///< when connect was called
    uint64_t answered; ///< when the line was back
    char line[LINE_LENGTH];
};

uint64_t client_now(void);

/// Gives a socket one of the addresses 127.0.0.2 to 127.0.0.250, in turn. 0, or -1 and errno.
int client_bind_next_source(int descriptor);

/// Opens the next connection and sends the line as soon as it can.
enum progress client_open(struct client *client, int epoll, uint16_t port);
/// Goes on after an event.
enum progress client_advance(struct client *client, int epoll);
/// After ANSWERED: says that no more will come; then ENDED follows.
enum progress client_half_close(struct client *client);
enum progress client_fail(struct client *client, int failure);

/// Opens `count` connections, exchanges a line on each, and leaves them open. The caller owns `descriptors[0..<*held]`, also on
/// failure: ETIMEDOUT when `limit_ns` has passed, EINTR after a signal, else what the first one failed with.
int hold_connections(uint16_t port, size_t count, uint64_t limit_ns, int *descriptors, size_t *held);

#endif
