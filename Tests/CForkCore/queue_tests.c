// SPDX-License-Identifier: Apache-2.0
//
// How many connections wait.

#include "test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/un.h>

enum { MOST = 7 };

union address {
    struct sockaddr any;
    struct sockaddr_storage room;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un unix_; // `unix` is a macro for some compilers
};

static int listen_at(union address *address, socklen_t length)
{
    int listener;
    const char *call;
    struct forkcore_listen_options options = {.backlog = 16, .mode = -1};
    CHECK(forkcore_listen(&address->any, length, &options, &listener, &call) == 0);
    CHECK(forkcore_local_address(listener, &address->room, &length) == 0);
    return listener;
}

static unsigned queued(int listener)
{
    unsigned count = 99;
    CHECK(forkcore_queued(listener, &count) == 0);
    return count;
}

// TCP's handshake ends in the listener some moments after connect has returned, at most.
static void await_queued(int listener, unsigned count)
{
    for (int i = 0; i < 10000 && queued(listener) != count; i++)
        usleep(1000);
    CHECK(queued(listener) == count);
}

static void count_at(union address address, socklen_t length)
{
    int clients[MOST], taken, listener = listen_at(&address, length);
    struct sockaddr_storage peer;
    CHECK(queued(listener) == 0);
    for (int i = 0; i < MOST; i++) {
        clients[i] = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(connect(clients[i], &address.any, length) == 0);
        await_queued(listener, i + 1);
    }
    for (int i = 0; i < MOST; i++) {
        CHECK(forkcore_accept(listener, &peer, &(socklen_t){0}, &taken) == 0);
        await_queued(listener, MOST - 1 - i);
        close(taken);
    }
    for (int i = 0; i < MOST; i++)
        close(clients[i]);
    close(listener);
}

static void tcp_v4(void)
{
    count_at((union address){.v4 = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}}},
             sizeof(struct sockaddr_in));
}

static void tcp_v6(void)
{
    count_at((union address){.v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT}},
             sizeof(struct sockaddr_in6));
}

static void unix_path(void)
{
    char directory[] = "/tmp/forkcore-XXXXXX";
    union address address = {.unix_ = {.sun_family = AF_UNIX}};
    CHECK(mkdtemp(directory) != NULL);
    snprintf(address.unix_.sun_path, sizeof address.unix_.sun_path, "%s/s", directory);
    count_at(address, sizeof address.unix_);
    unlink(address.unix_.sun_path);
    rmdir(directory);
}

static void unix_abstract(void)
{
    union address address = {.unix_ = {.sun_family = AF_UNIX}};
    int length = snprintf(address.unix_.sun_path + 1, 64, "forkcore-queue-%d", getpid());
    count_at(address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length));
}

// Two of a kind: one's clients are not the other's.
static void only_that_one(void)
{
    union address one = {.unix_ = {.sun_family = AF_UNIX, .sun_path = "\0forkcore-one"}}, other = one;
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + 13;
    other.unix_.sun_path[12] = 'x';
    int first = listen_at(&one, length), second = listen_at(&other, length);
    int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(connect(client, &other.any, length) == 0);
    CHECK(queued(first) == 0 && queued(second) == 1);
    close(client);
    close(first);
    close(second);
}

static void what_does_not_listen_is_refused(void)
{
    const struct { int family, type, error; } wrong[] = {
        {AF_INET, SOCK_STREAM, EINVAL},    {AF_INET6, SOCK_STREAM, EINVAL},   {AF_UNIX, SOCK_STREAM, EINVAL},
        {AF_INET, SOCK_DGRAM, EOPNOTSUPP}, {AF_UNIX, SOCK_DGRAM, EINVAL},     {AF_NETLINK, SOCK_DGRAM, EOPNOTSUPP},
    };
    unsigned count;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        int unfit = socket(wrong[i].family, wrong[i].type | SOCK_CLOEXEC, 0);
        count = 99;
        CHECK(forkcore_queued(unfit, &count) == wrong[i].error && count == 0);
        close(unfit);
    }
    struct gate gate = make_gate();
    CHECK(forkcore_queued(gate.ends[0], &count) == ENOTSOCK);
    close_gate(gate);
    CHECK(forkcore_queued(63, &count) == EBADF);
}

static void a_shortage_of_descriptors_is_told(void)
{
    int taken[FEW];
    union address address = {.unix_ = {.sun_family = AF_UNIX, .sun_path = "\0forkcore-short"}};
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + 15;
    int listener = listen_at(&address, length);
    unsigned count;
    int some = use_up(taken);
    CHECK(forkcore_queued(listener, &count) == EMFILE && count == 0);
    while (some > 0)
        close(taken[--some]);
    CHECK(queued(listener) == 0);
    close(listener);
}

const struct test queue_tests[] = {
    {"connections that wait are counted, TCP v4", tcp_v4},
    {"connections that wait are counted, TCP v6", tcp_v6},
    {"connections that wait are counted, Unix path", unix_path},
    {"connections that wait are counted, Unix abstract name", unix_abstract},
    {"connections that wait are counted of that one socket", only_that_one},
    {"what does not listen has no queue", what_does_not_listen_is_refused},
    {"a shortage of descriptors is told of", a_shortage_of_descriptors_is_told},
    {0},
};
