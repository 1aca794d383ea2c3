// SPDX-License-Identifier: Apache-2.0
//
// Passing descriptors on.

#include "test.h"

#include <sys/socket.h>
#include <sys/time.h>

static void a_descriptor_is_handed_over(void)
{
    int one, other, got = -1;
    char text[5] = "";
    struct gate gate = make_gate();
    CHECK(forkcore_channel_open(&one, &other) == 0);
    CHECK(forkcore_hand_over(one, gate.ends[1], "hello", 5) == 0);
    CHECK(forkcore_take_over(other, &got, text, 5) == 0 && memcmp(text, "hello", 5) == 0);
    CHECK(fcntl(got, F_GETFD) == FD_CLOEXEC && fcntl(one, F_GETFD) == FD_CLOEXEC);
    CHECK(fcntl(other, F_GETFD) == FD_CLOEXEC);
    close(gate.ends[1]);
    CHECK(write(got, "x", 1) == 1 && read(gate.ends[0], text, 1) == 1 && text[0] == 'x');
    close(got);

    close(gate.ends[0]);
    close(one);
    CHECK(forkcore_take_over(other, &got, text, 5) == ESHUTDOWN);
    close(other);
}

static void what_is_not_as_agreed_is_refused(void)
{
    const char *const others[] = {"hell", "hello!", ""};
    int one, other, got;
    char text[5];
    CHECK(forkcore_channel_open(&one, &other) == 0);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        CHECK(forkcore_hand_over(one, 2, others[i], strlen(others[i])) == 0);
        CHECK(forkcore_take_over(other, &got, text, 5) == EMSGSIZE); // and what came with it is closed
    }
    CHECK(forkcore_hand_over(one, 2, "hello", 5) == 0); // the next one is
    CHECK(forkcore_take_over(other, &got, text, 5) == 0);
    close(got);
    close(one);
    close(other);
}

// One byte on a stream comes whole, also when whoever sent it has closed.
static void a_file_in_memory_is_handed_over_on_a_stream(void)
{
    int ends[2], file, got;
    char byte = 1, text[5];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    CHECK(forkcore_memory_file("test", &file) == 0 && fcntl(file, F_GETFD) == FD_CLOEXEC);
    CHECK(write(file, "hello", 5) == 5);
    CHECK(forkcore_hand_over(ends[0], file, "", 1) == 0);
    close(file);
    close(ends[0]);
    CHECK(forkcore_take_over(ends[1], &got, &byte, 1) == 0 && byte == 0);
    CHECK(pread(got, text, 5, 0) == 5 && memcmp(text, "hello", 5) == 0);
    close(got);
    CHECK(forkcore_take_over(ends[1], &got, &byte, 1) == ESHUTDOWN);
    close(ends[1]);
}

static void bytes_without_a_descriptor_are_refused(void)
{
    int ends[2], got = -1;
    char byte;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    CHECK(write(ends[0], "hello", 5) == 5);
    CHECK(forkcore_take_over(ends[1], &got, &byte, 1) == EBADMSG);
    close(ends[0]);
    close(ends[1]);
}

// Two are sent: the second is not left open here, where nobody knows of it.
static void no_more_than_one_is_taken(void)
{
    int one, other, got, both[2] = {1, 2};
    char byte, room[CMSG_SPACE(sizeof both)] __attribute__((aligned(8))) = "";
    struct iovec data = {.iov_base = "", .iov_len = 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    *CMSG_FIRSTHDR(&message) = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(sizeof both), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), both, sizeof both);
    CHECK(forkcore_channel_open(&one, &other) == 0);
    CHECK(sendmsg(one, &message, 0) == 1);
    CHECK(forkcore_take_over(other, &got, &byte, 1) == 0);
    close(got);
    close(one);
    close(other);
}

static void nobody_to_hand_over_to_is_an_error(void)
{
    int one, other;
    CHECK(forkcore_channel_open(&one, &other) == 0);
    close(other);
    CHECK(forkcore_hand_over(one, 2, "hello", 5) == EPIPE);
    close(one);
    CHECK(forkcore_channel_open(&one, &other) == 0);
    CHECK(forkcore_hand_over(one, 2, "hello", 5) == 0);
    close(other); // with that one not taken
    CHECK(forkcore_hand_over(one, 2, "hello", 5) == ECONNRESET);
    CHECK(forkcore_hand_over(one, 2, "hello", 5) == EPIPE);
    close(one);
}

static void a_full_channel_is_not_waited_for(void)
{
    int one, other, error = 0;
    CHECK(forkcore_channel_open(&one, &other) == 0);
    for (int i = 0; i < 100000 && error == 0; i++)
        error = forkcore_hand_over(one, 2, "hello", 5);
    CHECK(error == EAGAIN || error == ETOOMANYREFS); // the latter where descriptors under way are limited
    close(one);
    close(other);
}

static void without_room_nothing_is_taken_over(void)
{
    int one, other, got = -1;
    char text[5];
    CHECK(forkcore_channel_open(&one, &other) == 0);
    CHECK(forkcore_hand_over(one, 2, "hello", 5) == 0);
    int taken[FEW], count = use_up(taken);
    CHECK(forkcore_take_over(other, &got, text, 5) == EMFILE);
    while (count > 0)
        close(taken[--count]);
    close(one);
    close(other);
}

static int parents_end;
static volatile sig_atomic_t alarms;

static void hand_over_at_the_tenth(int number)
{
    (void)number;
    if (++alarms == 10)
        CHECK(forkcore_hand_over(parents_end, 2, "hello", 5) == 0);
}

// Whoever waits is interrupted ten times before there is anything to take.
static void signals_do_not_end_the_wait(void)
{
    int other, got = -1;
    char text[5] = "";
    struct timeval often = {.tv_usec = 1000};
    CHECK(forkcore_channel_open(&parents_end, &other) == 0);
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = hand_over_at_the_tenth}, NULL); // without SA_RESTART
    setitimer(ITIMER_REAL, &(struct itimerval){often, often}, NULL);
    int error = forkcore_take_over(other, &got, text, 5);
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    errno = error;
    CHECK(error == 0 && alarms >= 10 && memcmp(text, "hello", 5) == 0);
    close(got);
    close(parents_end);
    close(other);
}

const struct test channel_tests[] = {
    {"a descriptor is handed over", a_descriptor_is_handed_over},
    {"what is not as agreed is refused", what_is_not_as_agreed_is_refused},
    {"a file in memory is handed over on a stream", a_file_in_memory_is_handed_over_on_a_stream},
    {"bytes without a descriptor are refused", bytes_without_a_descriptor_are_refused},
    {"no more than one is taken", no_more_than_one_is_taken},
    {"nobody to hand over to is an error", nobody_to_hand_over_to_is_an_error},
    {"a full channel is not waited for", a_full_channel_is_not_waited_for},
    {"without room nothing is taken over", without_room_nothing_is_taken_over},
    {"signals do not end the wait", signals_do_not_end_the_wait},
    {0},
};
