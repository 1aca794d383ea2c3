// SPDX-License-Identifier: Apache-2.0

#ifndef FORKBENCH_HTTP_CLIENT_H
#define FORKBENCH_HTTP_CLIENT_H

#include "forkbench_answer.h"

enum http_progress {
    HTTP_PENDING,  ///< nothing new; wait for the next event
    HTTP_ANSWERED, ///< `answer` is complete; the connection is still open unless it closes
    HTTP_FAILED,   ///< `failure` says why; the connection is closed
    HTTP_UNTAKEN,  ///< a reused connection was closed before any answer: the request may be sent again, on a new one
};

struct http_request {
    size_t length;
    char text[2048];
};

/// One connection at a time, and one request on it.
struct http_client {
    int descriptor; ///< -1: none
    int failure;
    bool is_sent;
    bool is_reused;        ///< it has carried an answer before
    const struct http_request *request; ///< NULL: none is under way
    uint64_t begun;        ///< when the request was made up: when connect was called, or it was sent
    uint64_t resumes;      ///< without a request: when the next may begin
    struct forkbench_answer answer;
};

/// ENAMETOOLONG if the path is too long.
int http_request_write(struct http_request *request, const char *path, uint16_t port, bool closes);

/// Sends a request, on this client's open connection or on a new one. `begun` is the caller's.
enum http_progress http_client_send(struct http_client *client, int epoll, uint16_t port);
/// Goes on after an event.
enum http_progress http_client_advance(struct http_client *client, int epoll);
void http_client_close(struct http_client *client);

#endif
