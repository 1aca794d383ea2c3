// SPDX-License-Identifier: Apache-2.0
//
// Descriptors whose closing takes long, attached to what nobody takes them from.

#include "test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/un.h>
#include <time.h>

enum { LONG = 60 }; // seconds

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// A TCP socket with bytes that nobody reads, and SO_LINGER; `*peer` is its other end.
static int lingering(int *peer)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof any;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &(int){4096}, sizeof(int));
    CHECK(bind(listener, (struct sockaddr *)&any, sizeof any) == 0 && listen(listener, 1) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&any, &length) == 0);
    CHECK(connect(one, (struct sockaddr *)&any, sizeof any) == 0);
    *peer = accept(listener, NULL, NULL);
    CHECK(*peer >= 0);
    static char much[1 << 16];
    while (send(one, much, sizeof much, MSG_DONTWAIT) > 0) {}
    struct linger linger = {.l_onoff = 1, .l_linger = LONG};
    CHECK(setsockopt(one, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    close(listener);
    return one;
}

static int attach(int socket, int descriptor)
{
    return forkcore_hand_over(socket, descriptor, "x", 1);
}

// `one` of a pair has such a socket in its queue, of which there is no other copy; what would reset that is the result.
static int trap(int one, int other)
{
    int peer, descriptor = lingering(&peer);
    CHECK(attach(other, descriptor) == 0);
    // Were it closed here while it is not attached, we would wait: a copy in the queue is the last one now.
    close(descriptor);
    (void)one;
    return peer;
}

static void rights_can_be_refused(void)
{
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    CHECK(forkcore_takes_rights(pair[0]));
    int error = forkcore_refuse_rights(pair[0]);
    CHECK(error == 0 || error == ENOPROTOOPT);
    if (error == 0) {
        CHECK(!forkcore_takes_rights(pair[0]) && forkcore_takes_rights(pair[1]));
        CHECK(attach(pair[1], 0) == EPERM && attach(pair[0], 0) == 0);
    }
    close(pair[0]);
    close(pair[1]);
    int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(forkcore_refuse_rights(tcp) != 0 && !forkcore_takes_rights(tcp));
    forkcore_close_aside(tcp);
    CHECK(fcntl(tcp, F_GETFD) < 0);
}

static void await_close(int descriptor)
{
    for (int tries = 0; fcntl(descriptor, F_GETFD) >= 0; tries++, usleep(1000))
        CHECK(tries < 30000);
}

static void closing_waits_for_nobody(void)
{
    double began = now();
    for (int i = 0; i < 20; i++) { // more than there are closers
        int pair[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        int peer = trap(pair[0], pair[1]);
        close(pair[1]);
        forkcore_close_aside(pair[0]);
        await_close(pair[0]);
        close(peer);
    }
    CHECK(now() - began < LONG / 2);
    int status;
    CHECK(waitpid(-1, &status, WNOHANG) == -1 && errno == ECHILD); // what closed them is nobody else's affair
}

// What spawn refused with, once something was closed aside; on one core, who does that has hardly begun by then.
static int spawn_while_closing(struct forkcore_spawner *spawner)
{
    int pair[2], exec_error, pidfd;
    pid_t pid;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    int peer = trap(pair[0], pair[1]);
    close(pair[1]);
    forkcore_close_aside(pair[0]);
    char *argv[] = {"/bin/true", NULL};
    int error = forkcore_spawn(spawner, &(struct forkcore_child_plan){0}, 0, argv[0], argv, argv + 1, &exec_error, &pid, &pidfd);
    CHECK(error == 0 || error == EBUSY);
    if (error == 0) {
        CHECK(forkcore_spawner_await(spawner, 30000000000) && await_end(pid).code == 0);
        close(pidfd);
    }
    await_close(pair[0]);
    close(peer);
    return error;
}

static void no_program_has_a_copy_of_what_is_being_closed(void)
{
    struct forkcore_spawner *spawner;
    cpu_set_t first;
    CPU_ZERO(&first);
    CHECK(sched_getaffinity(0, sizeof first, &first) == 0);
    for (int i = 0, seen = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &first) && seen++)
            CPU_CLR(i, &first);
    CHECK(sched_setaffinity(0, sizeof first, &first) == 0);
    CHECK(forkcore_spawner_open(&spawner) == 0);
    int tries = 0;
    while (spawn_while_closing(spawner) != EBUSY)
        CHECK(++tries < 1000);
    forkcore_spawner_close(spawner, 30000000000);
}

static void a_message_with_rights_is_dropped_and_no_other(void)
{
    char bytes[8];
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) == 0);
    CHECK(!forkcore_drop_rights(pair[0])); // there is none
    CHECK(send(pair[1], "plain", 5, 0) == 5);
    CHECK(!forkcore_drop_rights(pair[0]));
    CHECK(recv(pair[0], bytes, sizeof bytes, 0) == 5);
    double began = now();
    int peer = trap(pair[0], pair[1]);
    CHECK(send(pair[1], "after", 5, 0) == 5);
    CHECK(forkcore_drop_rights(pair[0]) && !forkcore_drop_rights(pair[0]));
    CHECK(recv(pair[0], bytes, sizeof bytes, 0) == 5 && memcmp(bytes, "after", 5) == 0);
    CHECK(now() - began < LONG / 2);
    close(peer);
    close(pair[0]);
    close(pair[1]);
}

const struct test rights_tests[] = {
    {"rights can be refused", rights_can_be_refused},
    {"closing waits for nobody", closing_waits_for_nobody},
    {"no program has a copy of what is being closed", no_program_has_a_copy_of_what_is_being_closed},
    {"a message with rights is dropped, and no other", a_message_with_rights_is_dropped_and_no_other},
    {0},
};
