// SPDX-License-Identifier: Apache-2.0
//
// One transaction: connect, send a line, receive it, half-close, read the server's end of stream, close.
//
// Who is left with TIME_WAIT: the client, as it closes first; the server's end is gone at once. Each keeps its address
// and port for 60 s. One source address has some 28,000 ports for one server's, which 5,000 connections a second use up
// in 6 s; then connect searches ever longer, and fails in the end. So the addresses 127.0.0.2 to 127.0.0.250 take turns:
// they have 7 million, and 10,000 a second for a minute occupy 9 % of them. IP_BIND_ADDRESS_NO_PORT leaves the port's
// choice to connect, which only asks that the four numbers together are unused; bind would look for one that nobody has.
// Above net.ipv4.tcp_max_tw_buckets (often 131,072) the kernel forgets the state at once; on loopback, where no segment
// is late, that is harmless, and it caps how much of it there is.

#define _GNU_SOURCE

#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

uint64_t client_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

int client_bind_next_source(int descriptor)
{
    static unsigned turn;
    const int yes = 1;
    struct sockaddr_in source = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(0x7f000002 + turn++ % 249),
    };
    if (setsockopt(descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes) != 0)
        return -1;
    return bind(descriptor, (struct sockaddr *)&source, sizeof source);
}

// No two are alike, so that an answer to somebody else does not pass for ours.
static void write_line(char line[LINE_LENGTH])
{
    static uint64_t number;
    uint64_t rest = number++;
    for (int place = LINE_LENGTH - 2; place >= 0; place--, rest >>= 4)
        line[place] = "0123456789abcdef"[rest & 15];
    line[LINE_LENGTH - 1] = '\n';
}

enum progress client_fail(struct client *client, int failure)
{
    if (client->descriptor >= 0)
        close(client->descriptor);
    client->descriptor = -1;
    client->failure = failure;
    return FAILED;
}

// 0, EAGAIN while the connection is not made, or what is wrong.
static int send_line(struct client *client)
{
    ssize_t sent = send(client->descriptor, client->line, LINE_LENGTH, MSG_NOSIGNAL);
    if (sent < 0)
        return errno;
    return sent == LINE_LENGTH ? 0 : EPROTO; // an empty send buffer takes 16 bytes whole
}

enum progress client_open(struct client *client, int epoll, uint16_t port)
{
    const struct sockaddr_in server = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    client->received = 0;
    write_line(client->line);
    client->descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->descriptor < 0 || client_bind_next_source(client->descriptor) != 0)
        return client_fail(client, errno);
    client->begun = client_now();
    if (connect(client->descriptor, (const struct sockaddr *)&server, sizeof server) != 0 && errno != EINPROGRESS)
        return client_fail(client, errno);
    // On loopback the connection is usually made by now, unless the server's queue is full.
    int code = send_line(client);
    if (code != 0 && code != EAGAIN)
        return client_fail(client, code);
    client->stage = code == 0 ? WAITING : CONNECTING;
    struct epoll_event event = {.events = code == 0 ? EPOLLIN : EPOLLOUT, .data.ptr = client};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, client->descriptor, &event) != 0)
        return client_fail(client, errno);
    return PENDING;
}

static enum progress finish_connecting(struct client *client, int epoll)
{
    int code = send_line(client);
    if (code == EAGAIN)
        return PENDING;
    client->stage = WAITING;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    if (code == 0 && epoll_ctl(epoll, EPOLL_CTL_MOD, client->descriptor, &event) != 0)
        code = errno;
    return code == 0 ? PENDING : client_fail(client, code);
}

enum progress client_advance(struct client *client, int epoll)
{
    if (client->stage == CONNECTING)
        return finish_connecting(client, epoll);
    char bytes[LINE_LENGTH + 1];
    ssize_t count = recv(client->descriptor, bytes, sizeof bytes, 0);
    if (count < 0)
        return errno == EAGAIN || errno == EINTR ? PENDING : client_fail(client, errno);
    if (client->stage == ENDING) {
        if (count != 0)
            return client_fail(client, EPROTO);
        close(client->descriptor);
        client->descriptor = -1;
        return ENDED;
    }
    size_t room = LINE_LENGTH - client->received;
    if (count == 0 || (size_t)count > room || memcmp(bytes, client->line + client->received, (size_t)count) != 0)
        return client_fail(client, EPROTO);
    client->received += (size_t)count;
    if (client->received < LINE_LENGTH)
        return PENDING;
    client->answered = client_now();
    return ANSWERED;
}

enum progress client_half_close(struct client *client)
{
    client->stage = ENDING;
    return shutdown(client->descriptor, SHUT_WR) == 0 ? PENDING : client_fail(client, errno);
}
