// SPDX-License-Identifier: Apache-2.0
//
// One request and its answer, on a new connection or on one that has carried others. `client.c` tells about addresses,
// ports and TIME_WAIT.

#define _GNU_SOURCE

#include "http_client.h"
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

int http_request_write(struct http_request *request, const char *path, uint16_t port, bool closes)
{
    int length = snprintf(request->text, sizeof request->text, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n%s\r\n", path,
                          port, closes ? "Connection: close\r\n" : "");
    request->length = (size_t)length;
    return request->length < sizeof request->text ? 0 : ENAMETOOLONG;
}

void http_client_close(struct http_client *client)
{
    if (client->descriptor >= 0)
        close(client->descriptor);
    client->descriptor = -1;
    client->is_reused = false;
}

// The end of a connection that did not end with a complete answer.
static enum http_progress lose(struct http_client *client, int failure)
{
    // A timeout or garbage is no answer either, but no sign that the request was not taken.
    bool is_untaken = client->is_reused && client->answer.received == 0
                      && (failure == EPIPE || failure == ECONNRESET);
    http_client_close(client);
    client->failure = failure;
    return is_untaken ? HTTP_UNTAKEN : HTTP_FAILED;
}

// 0, EAGAIN while the connection is not made, or what is wrong.
static int send_request(struct http_client *client)
{
    const struct http_request *request = client->request;
    ssize_t sent = send(client->descriptor, request->text, request->length, MSG_NOSIGNAL);
    if (sent < 0)
        return errno;
    client->is_sent = true;
    return (size_t)sent == request->length ? 0 : EPROTO; // an empty send buffer takes 2 KiB whole
}

static enum http_progress open_connection(struct http_client *client, int epoll, uint16_t port)
{
    const struct sockaddr_in server = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    client->descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->descriptor < 0 || client_bind_next_source(client->descriptor) != 0)
        return lose(client, errno);
    if (connect(client->descriptor, (const struct sockaddr *)&server, sizeof server) != 0 && errno != EINPROGRESS)
        return lose(client, errno);
    int code = send_request(client);
    if (code != 0 && code != EAGAIN)
        return lose(client, code);
    struct epoll_event event = {.events = code == 0 ? EPOLLIN : EPOLLOUT, .data.ptr = client};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, client->descriptor, &event) != 0)
        return lose(client, errno);
    return HTTP_PENDING;
}

enum http_progress http_client_send(struct http_client *client, int epoll, uint16_t port)
{
    forkbench_answer_begin(&client->answer);
    client->is_sent = false;
    if (client->descriptor < 0)
        return open_connection(client, epoll, port);
    int code = send_request(client);
    return code == 0 ? HTTP_PENDING : lose(client, code);
}

static enum http_progress finish_connecting(struct http_client *client, int epoll)
{
    int code = send_request(client);
    if (code == EAGAIN)
        return HTTP_PENDING;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    if (code == 0 && epoll_ctl(epoll, EPOLL_CTL_MOD, client->descriptor, &event) != 0)
        code = errno;
    return code == 0 ? HTTP_PENDING : lose(client, code);
}

enum http_progress http_client_advance(struct http_client *client, int epoll)
{
    if (!client->is_sent)
        return finish_connecting(client, epoll);
    char bytes[16384];
    ssize_t count = recv(client->descriptor, bytes, sizeof bytes, 0);
    if (count < 0)
        return errno == EAGAIN || errno == EINTR ? HTTP_PENDING : lose(client, errno);
    if (count == 0)
        return forkbench_answer_end(&client->answer) ? HTTP_ANSWERED : lose(client, EPIPE);
    forkbench_answer_take(&client->answer, bytes, (size_t)count);
    if (client->answer.failure != 0)
        return lose(client, client->answer.failure);
    return client->answer.is_complete ? HTTP_ANSWERED : HTTP_PENDING;
}
