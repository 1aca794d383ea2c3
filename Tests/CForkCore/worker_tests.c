// SPDX-License-Identifier: Apache-2.0
//
// What a pool's parent and its workers have between them.

#include "forkcore_containment.h"
#include "test.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <stddef.h>
#include <time.h>
#include <sys/un.h>

static void a_lifeline_ends_with_the_parents_side_and_carries_nothing_back(void)
{
    int parents, workers;
    CHECK(forkcore_lifeline_open(&parents, &workers) == 0);
    CHECK(!is_readable(workers, 0));
    CHECK(send(workers, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
    CHECK(forkcore_hand_over(workers, 2, "x", 1) == EPIPE);
    close(parents);
    CHECK(is_readable(workers, 0));
    close(workers);
}

struct tie {
    int parents, workers;
    bool drops;
};

static int hang_on(void *context)
{
    struct tie *tie = context;
    sigset_t all;
    close(tie->parents);
    CHECK(forkcore_tie(tie->workers) == 0);
    if (tie->drops)
        CHECK(setgid(65534) == 0 && setuid(65534) == 0);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    while (true)
        pause();
    return 0;
}

static void try_tie(bool drops)
{
    struct tie tie = {.drops = drops};
    CHECK(forkcore_tie_open(&tie.parents, &tie.workers) == 0);
    CHECK(fcntl(tie.parents, F_GETFD) & FD_CLOEXEC && fcntl(tie.workers, F_GETFD) & FD_CLOEXEC);
    pid_t child = start(NULL, hang_on, &tie);
    while (!(fcntl(tie.workers, F_GETFL) & O_ASYNC)) // of what parent and child share
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    close(tie.workers);
    CHECK(waitpid(child, NULL, WNOHANG) == 0);
    close(tie.parents);
    struct forkcore_ending ending = await_end(child);
    CHECK(ending.state == FORKCORE_KILLED && ending.signal == SIGKILL);
}

static void a_tie_ends_who_is_tied_whatever_rights_it_has(void)
{
    try_tie(false);
    if (geteuid() == 0)
        try_tie(true);
}

static int end_soon(void *context)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    CHECK(forkcore_end_after(*(int64_t *)context) == 0);
    while (true)
        pause();
    return 0;
}

static void a_process_can_set_its_own_end(void)
{
    int64_t times[] = {-1, 0, 20000000};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        struct forkcore_ending ending = await_end(start(NULL, end_soon, &times[i]));
        CHECK(ending.state == FORKCORE_KILLED && ending.signal == SIGKILL);
    }
}

static void what_is_never_read_is_news_each_time(void)
{
    int poll, event;
    uint64_t token;
    size_t count;
    CHECK(forkcore_poll_open(&poll) == 0 && forkcore_event_open(&event) == 0);
    CHECK(forkcore_poll_add_edge(poll, event, 0) == 0);
    for (int i = 0; i < 3; i++) {
        forkcore_event_add(event, 1);
        CHECK(forkcore_poll_ready(poll, &token, 1, &count) == 0 && count == 1);
        CHECK(forkcore_poll_ready(poll, &token, 1, &count) == 0 && count == 0);
    }
    close(event);
    close(poll);
}

static void try_again(int family, const struct sockaddr *asked, socklen_t length, bool can_be)
{
    struct sockaddr_storage address;
    struct forkcore_listen_options options = {.backlog = 7, .mode = -1};
    const char *call;
    int listener;
    bool again = true;
    CHECK(forkcore_listen(asked, length, &options, &listener, &call) == 0);
    CHECK(forkcore_local_address(listener, &address, &length) == 0);
    const struct sockaddr *bound = (struct sockaddr *)&address;
    CHECK(forkcore_listen_again(listener, bound, length, 7, &again) == 0 && !again);
    for (int i = 0; i < 2; i++) {
        CHECK(!forkcore_is_shut_down(listener) || (!can_be && i > 0));
        CHECK(shutdown(listener, i == 0 ? SHUT_RDWR : SHUT_RD) == 0);
        CHECK(forkcore_is_shut_down(listener));
        CHECK(forkcore_listen_again(listener, bound, length, 7, &again) == (can_be ? 0 : ESHUTDOWN) && again);
        int client = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK((connect(client, bound, length) == 0) == can_be);
        close(client);
    }
    close(listener);
}

static void a_listener_that_was_shut_down_listens_again_where_it_was(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    socklen_t length = (socklen_t)offsetof(struct sockaddr_un, sun_path);
    length += 1 + (socklen_t)snprintf(local.sun_path + 1, 50, "forkcore-%d", (int)getpid());

    try_again(AF_INET, (struct sockaddr *)&any, sizeof any, true);
    try_again(AF_INET6, (struct sockaddr *)&v6, sizeof v6, true);
    try_again(AF_UNIX, (struct sockaddr *)&local, length, false);
}

static void waiting_for_input_has_two_limits(void)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    CHECK(forkcore_await_input(ends[0], -1) == EAGAIN);
    CHECK(forkcore_await_input(ends[0], 20000000) == EAGAIN);
    CHECK(forkcore_set_timeout(ends[0], 20000) == 0);
    CHECK(forkcore_await_input(ends[0], INT64_MAX) == EAGAIN); // the socket's own
    start_storm();
    CHECK(forkcore_await_input(ends[0], 50000000) == EAGAIN);
    stop_storm();
    CHECK(write(ends[1], "x", 1) == 1 && forkcore_await_input(ends[0], 1) == 0);
    CHECK(read(ends[0], &(char){0}, 1) == 1);
    close(ends[1]);
    CHECK(forkcore_await_input(ends[0], INT64_MAX) == 0);
    close(ends[0]);
}

const struct test worker_tests[] = {
    {"a lifeline ends with the parent's side, and carries nothing back",
     a_lifeline_ends_with_the_parents_side_and_carries_nothing_back},
    {"a tie ends who is tied, whatever rights it has", a_tie_ends_who_is_tied_whatever_rights_it_has},
    {"a process can set its own end", a_process_can_set_its_own_end},
    {"what is never read is news each time", what_is_never_read_is_news_each_time},
    {"a listener that was shut down listens again, where it was", a_listener_that_was_shut_down_listens_again_where_it_was},
    {"waiting for input has two limits", waiting_for_input_has_two_limits},
    {0},
};
