// SPDX-License-Identifier: Apache-2.0
//
// Sending and receiving.

#include "test.h"

#include "forkcore_peers.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

enum { TOTAL = 4 << 20 };

static void make_pair(int type, int pair[2])
{
    CHECK(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair) == 0);
    for (int i = 0; i < 2; i++) {
        setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &(int){4096}, sizeof(int));
        setsockopt(pair[i], SOL_SOCKET, SO_RCVBUF, &(int){4096}, sizeof(int));
    }
}

static char pattern(size_t place) { return (char)(place * 31 + place / 4093); }

static int read_slowly(void *context)
{
    int *pair = context;
    static char piece[1000];
    size_t received = 0, count;
    close(pair[0]);
    while (forkcore_receive(pair[1], piece, sizeof piece, &count) == 0 && count > 0) {
        for (size_t i = 0; i < count; i++)
            if (piece[i] != pattern(received + i))
                return 1;
        if ((received / sizeof piece) % 64 == 0)
            usleep(500);
        received += count;
    }
    return received == TOTAL ? 0 : 2;
}

static void all_is_sent_in_a_storm_of_signals(void)
{
    int pair[2];
    char *bytes = malloc(TOTAL);
    for (size_t i = 0; i < TOTAL; i++)
        bytes[i] = pattern(i);
    make_pair(SOCK_STREAM, pair);
    pid_t reader = start(NULL, read_slowly, pair);
    close(pair[1]);
    start_storm();
    CHECK(forkcore_send_all(pair[0], bytes, TOTAL) == 0);
    stop_storm();
    CHECK(storm_count() > 10);
    forkcore_finish_sending(pair[0]);
    CHECK(await_end(reader).code == 0);
    close(pair[0]);
    free(bytes);
}

static int send_late(void *context)
{
    int *pair = context;
    usleep(20000);
    return forkcore_send_all(pair[1], "late", 4);
}

static void receiving_goes_on_after_a_signal(void)
{
    int pair[2];
    char bytes[8];
    size_t count;
    make_pair(SOCK_STREAM, pair);
    pid_t sender = start(NULL, send_late, pair);
    start_storm();
    CHECK(forkcore_receive(pair[0], bytes, sizeof bytes, &count) == 0 && count == 4);
    stop_storm();
    CHECK(storm_count() > 0);
    await_end(sender);
    close(pair[0]);
    close(pair[1]);
}

static void a_peer_that_has_gone_is_an_error_and_no_signal(void)
{
    int pair[2];
    char byte;
    size_t count = 9;
    make_pair(SOCK_STREAM, pair);
    forkcore_finish_sending(pair[1]);
    CHECK(forkcore_receive(pair[0], &byte, 1, &count) == 0 && count == 0);
    CHECK(forkcore_send_all(pair[0], "x", 1) == 0); // the other way is still open
    close(pair[1]);
    CHECK(forkcore_send_all(pair[0], "x", 1) == EPIPE); // SIGPIPE would have ended us
    CHECK(forkcore_send_all(pair[0], NULL, 0) == 0);
    close(pair[0]);
}

static void time_outs_end_a_wait(void)
{
    int pair[2];
    char byte;
    size_t count;
    static char much[1 << 20];
    make_pair(SOCK_STREAM, pair);
    CHECK(forkcore_set_timeout(pair[0], 20000) == 0);
    CHECK(forkcore_receive(pair[0], &byte, 1, &count) == EAGAIN);
    CHECK(forkcore_send_all(pair[0], much, sizeof much) == EAGAIN);
    CHECK(forkcore_set_timeout(pair[0], 0) == 0);
    close(pair[1]);
    CHECK(forkcore_set_no_delay(pair[0], true) == EOPNOTSUPP); // not TCP
    close(pair[0]);
    CHECK(forkcore_set_timeout(pair[0], 1) == EBADF);
}

static void a_stream_ends_as_it_should_though_its_peer_goes_on(void)
{
    int pair[2];
    char bytes[16];
    size_t count;
    make_pair(SOCK_STREAM, pair);
    CHECK(forkcore_send_all(pair[1], "some bytes", 10) == 0);
    CHECK(forkcore_send_all(pair[0], "an answer", 9) == 0);
    forkcore_finish(pair[0], true, 0);
    CHECK(forkcore_send_all(pair[1], "more", 4) == EPIPE); // rather than that it comes, and makes a reset of the end
    close(pair[0]);
    CHECK(forkcore_receive(pair[1], bytes, sizeof bytes, &count) == 0 && count == 9);
    CHECK(forkcore_receive(pair[1], bytes, sizeof bytes, &count) == 0 && count == 0);
    close(pair[1]);
}

static void the_peer_says_who_it_is(void)
{
    int pair[2];
    pid_t pid = 0;
    uid_t user = 9999;
    gid_t group = 9999;
    make_pair(SOCK_STREAM, pair);
    CHECK(forkcore_peer_credentials(pair[0], &pid, &user, &group) == 0);
    CHECK(pid == getpid() && user == geteuid() && group == getegid());
    close(pair[0]);
    close(pair[1]);
    CHECK(forkcore_peer_credentials(pair[0], &pid, &user, &group) == EBADF);
}

static void datagrams_come_with_their_sender(void)
{
    struct forkcore_listen_options options = {.datagram = true, .mode = -1};
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_storage address, peer;
    socklen_t length;
    struct forkcore_destination to;
    const char *call;
    char bytes[8];
    size_t count;
    bool truncated;
    int server, client;
    CHECK(forkcore_listen((struct sockaddr *)&any, sizeof any, &options, &server, &call) == 0);
    CHECK(forkcore_listen((struct sockaddr *)&any, sizeof any, &options, &client, &call) == 0);
    CHECK(forkcore_receive_datagram(server, bytes, 8, &peer, &length, &to, &count, &truncated) == EAGAIN);

    const struct { const char *text; size_t kept; bool truncated; } sent[] = {
        {"", 0, false}, {"1234567", 7, false}, {"12345678", 8, false}, {"123456789", 8, true}};
    for (int i = 0; i < 4; i++) {
        CHECK(forkcore_local_address(server, &address, &length) == 0);
        CHECK(forkcore_send_datagram(client, sent[i].text, strlen(sent[i].text), (void *)&address, length, NULL) == 0);
        CHECK(is_readable(server, 30000));
        CHECK(forkcore_receive_datagram(server, bytes, 8, &peer, &length, &to, &count, &truncated) == 0);
        CHECK(count == sent[i].kept && memcmp(bytes, sent[i].text, count) == 0 && truncated == sent[i].truncated);
    }
    CHECK(forkcore_local_address(client, &address, &length) == 0);
    CHECK(memcmp(&peer, &address, sizeof any) == 0);
    CHECK(to.family == AF_INET && memcmp(to.address, &any.sin_addr, 4) == 0);
    CHECK(forkcore_send_datagram(server, "back", 4, (void *)&peer, length, &to) == 0);
    CHECK(is_readable(client, 30000));
    close(client);
    close(server);
}

static void a_datagram_waits_for_no_room(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX}; // abstract; the kernel chooses
    struct sockaddr_storage bound;
    socklen_t length;
    int error = 0, sent = 0;
    int reader = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CHECK(bind(reader, (struct sockaddr *)&address, sizeof(sa_family_t)) == 0);
    CHECK(forkcore_local_address(reader, &bound, &length) == 0);
    for (; error == 0 && sent < 100000; sent++)
        error = forkcore_send_datagram(sender, "x", 1, (struct sockaddr *)&bound, length, NULL);
    CHECK(error == EAGAIN && sent > 1);
    close(reader);
    close(sender);
}

static void an_answer_comes_from_where_was_asked(void)
{
    struct forkcore_listen_options options = {.datagram = true, .mode = -1};
    struct sockaddr_in any = {.sin_family = AF_INET};
    struct sockaddr_in6 both = {.sin6_family = AF_INET6};
    const struct { struct sockaddr *address; socklen_t size; } wildcards[] = {
        {(struct sockaddr *)&any, sizeof any}, {(struct sockaddr *)&both, sizeof both}};
    for (int i = 0; i < 2; i++) {
        struct forkcore_destination to;
        struct sockaddr_storage address, peer;
        struct sockaddr_in asked = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK + 1)}};
        socklen_t length;
        const char *call;
        char bytes[8];
        size_t count;
        bool truncated;
        int server, client = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        CHECK(forkcore_listen(wildcards[i].address, wildcards[i].size, &options, &server, &call) == 0);
        CHECK(forkcore_local_address(server, &address, &length) == 0);
        memcpy(&asked.sin_port, (char *)&address + 2, 2); // at the same place for IPv4 and IPv6
        CHECK(connect(client, (struct sockaddr *)&asked, sizeof asked) == 0 && send(client, "ask", 3, 0) == 3);
        CHECK(is_readable(server, 30000));
        CHECK(forkcore_receive_datagram(server, bytes, 8, &peer, &length, &to, &count, &truncated) == 0 && count == 3);
        CHECK(forkcore_send_datagram(server, "told", 4, (void *)&peer, length, &to) == 0);
        CHECK(is_readable(client, 30000) && recv(client, bytes, 8, 0) == 4); // connected, it hears nobody else
        to.address[3] = to.address[15] = 255; // not ours: the kernel chooses
        to.address[0] = to.address[12] = 9;
        CHECK(forkcore_send_datagram(server, "told", 4, (void *)&peer, length, &to) == 0);
        close(client);
        close(server);
    }
}

const struct test transfer_tests[] = {
    {"all is sent in a storm of signals", all_is_sent_in_a_storm_of_signals},
    {"receiving goes on after a signal", receiving_goes_on_after_a_signal},
    {"a peer that has gone is an error and no signal", a_peer_that_has_gone_is_an_error_and_no_signal},
    {"time-outs end a wait", time_outs_end_a_wait},
    {"a stream ends as it should though its peer goes on", a_stream_ends_as_it_should_though_its_peer_goes_on},
    {"the peer says who it is", the_peer_says_who_it_is},
    {"datagrams come with their sender", datagrams_come_with_their_sender},
    {"a datagram waits for no room", a_datagram_waits_for_no_room},
    {"an answer comes from where was asked", an_answer_comes_from_where_was_asked},
    {0},
};
