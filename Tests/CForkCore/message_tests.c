// SPDX-License-Identifier: Apache-2.0
//
// Messages of head, bytes and descriptors.

#include "test.h"

#include "forkcore_zygote.h"

#include <pthread.h>
#include <sys/socket.h>

struct pair {
    int one, other;
};

static struct pair open_pair(void)
{
    struct pair pair;
    CHECK(forkcore_channel_open(&pair.one, &pair.other) == 0);
    return pair;
}

static void close_pair(struct pair pair)
{
    close(pair.one);
    close(pair.other);
}

static int send_text(int channel, char *head, char *text, int *descriptors, size_t count)
{
    return forkcore_message_send(
        channel, &(struct forkcore_message){head, strlen(head), text, strlen(text), descriptors, count});
}

// What a test takes, with a head of four bytes, and room for eight more.
struct taken {
    char head[5], text[9];
    int descriptors[FORKCORE_DESCRIPTORS];
    size_t count;
    int error;
};

static struct taken take(int channel, size_t room)
{
    struct taken taken = {0};
    struct forkcore_message message = {taken.head, 4, taken.text, 8, taken.descriptors, room};
    taken.error = forkcore_message_receive(channel, &message);
    taken.count = message.descriptor_count;
    CHECK(taken.error != 0 || message.count == strlen(taken.text));
    return taken;
}

static void a_message_comes_whole(void)
{
    struct pair pair = open_pair();
    struct gate gate = make_gate();
    size_t size;
    char byte;
    CHECK(forkcore_message_size(pair.other, &size) == EAGAIN);
    CHECK(take(pair.other, 1).error == EAGAIN);
    CHECK(send_text(pair.one, "head", "text", &gate.ends[1], 1) == 0);
    CHECK(send_text(pair.one, "HEAD", "", NULL, 0) == 0);
    CHECK(forkcore_message_size(pair.other, &size) == 0 && size == 8);
    struct taken taken = take(pair.other, 1);
    CHECK(taken.error == 0 && strcmp(taken.head, "head") == 0 && strcmp(taken.text, "text") == 0 && taken.count == 1);
    CHECK(fcntl(taken.descriptors[0], F_GETFD) == FD_CLOEXEC);
    CHECK(write(taken.descriptors[0], "x", 1) == 1 && read(gate.ends[0], &byte, 1) == 1);
    close(taken.descriptors[0]);
    taken = take(pair.other, 1);
    CHECK(taken.error == 0 && strcmp(taken.head, "HEAD") == 0 && taken.text[0] == 0 && taken.count == 0);
    close_gate(gate);
    close_pair(pair);
}

static void the_end_is_told_from_an_empty_message(void)
{
    struct pair pair = open_pair();
    size_t size;
    CHECK(send(pair.one, "", 0, 0) == 0);
    CHECK(forkcore_message_size(pair.other, &size) == 0 && size == 0);
    CHECK(take(pair.other, 1).error == EMSGSIZE);
    CHECK(!forkcore_hung_up(pair.other));
    CHECK(send_text(pair.one, "last", "", NULL, 0) == 0);
    forkcore_finish_sending(pair.one);
    CHECK(forkcore_hung_up(pair.other) && !forkcore_hung_up(pair.one));
    CHECK(take(pair.other, 1).error == 0); // what was sent before still comes
    CHECK(forkcore_message_size(pair.other, &size) == ESHUTDOWN && take(pair.other, 1).error == ESHUTDOWN);
    CHECK(send_text(pair.other, "back", "", NULL, 0) == 0 && take(pair.one, 1).error == 0); // the other way is open
    close(pair.one);
    CHECK(send_text(pair.other, "back", "", NULL, 0) == EPIPE);
    close(pair.other);
}

static void what_does_not_fit_is_refused(void)
{
    struct pair pair = open_pair();
    int two[2] = {1, 2};
    CHECK(send_text(pair.one, "hea", "", two, 2) == 0); // shorter than a head
    CHECK(send_text(pair.one, "head", "too long!", two, 2) == 0);
    CHECK(send_text(pair.one, "head", "text", two, 2) == 0); // more descriptors than there is room for
    for (int i = 0; i < 3; i++) {
        struct taken taken = take(pair.other, 1);
        CHECK(taken.error == EMSGSIZE && taken.count == 1);
        close(taken.descriptors[0]); // the other one was closed
    }
    CHECK(take(pair.other, 1).error == EAGAIN);
    close_pair(pair);
}

static void as_many_descriptors_as_the_kernel_passes(void)
{
    struct pair pair = open_pair();
    int many[FORKCORE_DESCRIPTORS + 1];
    for (size_t i = 0; i <= FORKCORE_DESCRIPTORS; i++)
        many[i] = 2;
    CHECK(send_text(pair.one, "head", "", many, FORKCORE_DESCRIPTORS + 1) == EINVAL);
    CHECK(send_text(pair.one, "head", "", many, FORKCORE_DESCRIPTORS) == 0);
    struct taken some = take(pair.other, FORKCORE_DESCRIPTORS);
    CHECK(some.error == EMFILE && some.count > 0); // this process can have 64
    while (some.count > 0)
        close(some.descriptors[--some.count]);
    if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){512, 512}) == 0) {
        CHECK(send_text(pair.one, "head", "", many, FORKCORE_DESCRIPTORS) == 0);
        struct taken taken = take(pair.other, FORKCORE_DESCRIPTORS);
        CHECK(taken.error == 0 && taken.count == FORKCORE_DESCRIPTORS);
        while (taken.count > 0)
            close(taken.descriptors[--taken.count]);
    }
    close_pair(pair);
}

static void neither_side_waits(void)
{
    struct pair pair = open_pair();
    int error = 0;
    char *long_one = calloc(1, 1 << 20);
    memset(long_one, 'x', (1 << 20) - 1);
    CHECK(send_text(pair.one, "head", long_one, NULL, 0) == EMSGSIZE);
    free(long_one);
    for (int i = 0; i < 100000 && error == 0; i++)
        error = send_text(pair.one, "head", "text", NULL, 0);
    CHECK(error == EAGAIN);
    close_pair(pair);
}

// The kernel tells of a reset then, in front of what the peer has sent.
static void what_a_peer_left_unread_hides_nothing(void)
{
    struct pair pair = open_pair();
    size_t size;
    char head[4];
    CHECK(send_text(pair.one, "head", "", NULL, 0) == 0);
    CHECK(send_text(pair.other, "head", "", NULL, 0) == 0);
    close(pair.other);
    CHECK(forkcore_message_size(pair.one, &size) == 0 && size == 4);
    CHECK(recv(pair.one, head, sizeof head, 0) == 4);
    CHECK(forkcore_message_size(pair.one, &size) == ESHUTDOWN);
    CHECK(forkcore_hung_up(pair.one));
    close(pair.one);
}

static void hanging_up_is_news_and_a_message_is_not(void)
{
    struct pair pair = open_pair();
    int poll;
    uint64_t token;
    size_t count;
    CHECK(forkcore_poll_open(&poll) == 0);
    CHECK(forkcore_poll_add_hang_up(poll, pair.other, 7) == 0);
    CHECK(forkcore_poll_add_hang_up(poll, pair.other, 7) == EEXIST);
    CHECK(send_text(pair.one, "head", "", NULL, 0) == 0);
    CHECK(forkcore_poll_ready(poll, &token, 1, &count) == 0 && count == 0);
    forkcore_finish_sending(pair.one);
    CHECK(is_readable(poll, 0));
    CHECK(forkcore_poll_ready(poll, &token, 1, &count) == 0 && count == 1 && token == 7);
    forkcore_poll_remove(poll, pair.other);
    CHECK(!is_readable(poll, 0));
    close(poll);
    close_pair(pair);
}

static void a_post_waits_for_room(void)
{
    struct pair pair = open_pair();
    char *text = calloc(1, 30001);
    memset(text, 'x', 30000);
    pid_t child = fork();
    if (child == 0) {
        close(pair.other);
        for (int i = 0; i < 100; i++)
            if (forkcore_message_post(pair.one, &(struct forkcore_message){"head", 4, text, 30000, NULL, 0}) != 0)
                _exit(1);
        // nobody takes these, and nobody is there any more
        for (int i = 0; i < 100; i++)
            if (forkcore_message_post(pair.one, &(struct forkcore_message){"head", 4, text, 30000, NULL, 0}) == EPIPE)
                _exit(0);
        _exit(2);
    }
    close(pair.one);
    for (int i = 0; i < 100; i++) {
        CHECK(is_readable(pair.other, 20000));
        CHECK(recv(pair.other, text, 30000, MSG_TRUNC) == 30004);
    }
    close(pair.other);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    free(text);
}

static void one_that_left_no_room_leaves_some_to_be_made(void)
{
    struct pair pair = open_pair();
    while (send_text(pair.one, "head", "text", NULL, 0) == 0) {}
    CHECK(send_text(pair.one, "head", "last", NULL, 0) == EAGAIN);
    CHECK(forkcore_message_make_room(pair.one) == 0);
    CHECK(send_text(pair.one, "head", "last", NULL, 0) == 0);
    close_pair(pair);
}

static bool is_closed_soon(int pipe) // the other end is
{
    return is_readable(pipe, 20000);
}

static void what_is_discarded_is_closed(void)
{
    struct gate gate = make_gate();
    int many[20];
    CHECK(forkcore_discard(NULL, 0) == 0);
    for (int i = 0; i < 20; i++)
        many[i] = dup(gate.ends[1]);
    close(gate.ends[1]);
    CHECK(forkcore_discard(many, 20) == 0);
    CHECK(is_closed_soon(gate.ends[0]));
    close(gate.ends[0]);
}

// In whatever it came, and behind whatever it stands.
static void a_channel_closes_with_what_is_in_it(void)
{
    for (int kind = 0; kind < 4; kind++) {
        struct pair pair = open_pair();
        struct gate gate = make_gate();
        if (kind == 1)
            CHECK(send_text(pair.one, "head", "text", NULL, 0) == 0);
        if (kind == 2)
            CHECK(send(pair.one, "", 0, 0) == 0);
        if (kind == 3)
            for (int i = 0; i < 20; i++)
                CHECK(send_text(pair.one, "head", "text", NULL, 0) == 0);
        CHECK(send_text(pair.one, "", "", &gate.ends[1], 1) == 0);
        close(gate.ends[1]);
        CHECK(!is_readable(gate.ends[0], 0));
        forkcore_channel_close(pair.other);
        int error = send_text(pair.one, "head", "", NULL, 0);
        CHECK(error == EPIPE || error == ECONNRESET);
        CHECK(is_closed_soon(gate.ends[0]));
        close(gate.ends[0]);
        close(pair.one);
    }
}

// Else each call that is taken after its child has ended would cost a thread.
static void a_channel_without_descriptors_is_closed_at_once(void)
{
    for (int i = 0; i < 3; i++) {
        struct pair pair = open_pair();
        if (i > 0)
            CHECK(send_text(pair.one, "head", "text", NULL, 0) == 0);
        if (i > 1)
            close(pair.one);
        forkcore_channel_close(pair.other);
        CHECK(fcntl(pair.other, F_GETFD) == -1);
        if (i <= 1)
            close(pair.one);
    }
}

static void rights_are_refused_where_the_kernel_can(void)
{
    struct pair pair = open_pair();
    int error = forkcore_refuse_rights(pair.other), two = 2;
    CHECK(error == 0 || error == ENOPROTOOPT);
    if (error == 0)
        CHECK(send_text(pair.one, "head", "", &two, 1) == EPERM);
    CHECK(send_text(pair.one, "head", "", NULL, 0) == 0);
    close_pair(pair);
}

static void *send_later(void *channel)
{
    usleep(20000);
    CHECK(send_text(*(int *)channel, "head", "text", NULL, 0) == 0);
    return NULL;
}

static void a_message_is_awaited(void)
{
    struct pair pair = open_pair();
    struct taken taken = {0};
    struct forkcore_message message = {taken.head, 4, taken.text, 8, taken.descriptors, 0};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, send_later, &pair.one) == 0);
    CHECK(forkcore_message_await(pair.other, &message) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(strcmp(taken.head, "head") == 0 && strcmp(taken.text, "text") == 0);
    close(pair.one);
    CHECK(forkcore_message_await(pair.other, &message) == ESHUTDOWN);
    close(pair.other);
}

static void a_message_that_is_there_is_there_soon(void)
{
    struct pair pair = open_pair();
    CHECK(!forkcore_readable_soon(pair.other, 1000000));
    CHECK(send_text(pair.one, "head", "text", NULL, 0) == 0);
    CHECK(forkcore_readable_soon(pair.other, 0));
    CHECK(take(pair.other, 0).error == 0);
    close(pair.one);
    CHECK(forkcore_readable_soon(pair.other, 0));
    close(pair.other);
}

static void a_watch_is_for_input_or_for_the_end(void)
{
    struct pair pair = open_pair();
    int poll;
    uint64_t token;
    CHECK(forkcore_poll_open(&poll) == 0);
    CHECK(forkcore_poll_watch(poll, pair.other, 7, false) == 0);
    CHECK(send_text(pair.one, "head", "text", NULL, 0) == 0);
    CHECK(forkcore_poll_wait(poll, 0, &token) == 0 && token == UINT64_MAX);
    CHECK(forkcore_poll_watch(poll, pair.other, 8, true) == 0);
    for (int times = 0; times < 2; times++)
        CHECK(forkcore_poll_wait(poll, 0, &token) == 0 && token == 8);
    CHECK(forkcore_poll_watch(poll, pair.other, 9, false) == 0);
    CHECK(forkcore_poll_wait(poll, 0, &token) == 0 && token == UINT64_MAX);
    close(pair.one);
    CHECK(forkcore_poll_wait(poll, 0, &token) == 0 && token == 9);
    CHECK(forkcore_poll_wait(poll, 0, &token) == 0 && token == UINT64_MAX); // once
    close(pair.other);
    close(poll);
}

static void a_word_is_waited_for(void)
{
    uint32_t word = 0, first = forkcore_word_value(&word);
    forkcore_word_wait(&word, first + 2, 60000000000); // it has another value
    forkcore_word_wait(&word, first, 1000000);
    CHECK(forkcore_word_value(&word) == first); // to wait does not change it
    forkcore_word_advance(&word);
    CHECK(forkcore_word_value(&word) != first);
    forkcore_word_wait(&word, first, 60000000000);
}

const struct test message_tests[] = {
    {"a message comes whole", a_message_comes_whole},
    {"the end is told from an empty message", the_end_is_told_from_an_empty_message},
    {"what does not fit is refused", what_does_not_fit_is_refused},
    {"as many descriptors as the kernel passes", as_many_descriptors_as_the_kernel_passes},
    {"neither side waits", neither_side_waits},
    {"what a peer left unread hides nothing", what_a_peer_left_unread_hides_nothing},
    {"hanging up is news, and a message is not", hanging_up_is_news_and_a_message_is_not},
    {"a post waits for room", a_post_waits_for_room},
    {"one that left no room leaves some to be made", one_that_left_no_room_leaves_some_to_be_made},
    {"what is discarded is closed", what_is_discarded_is_closed},
    {"a channel closes with what is in it", a_channel_closes_with_what_is_in_it},
    {"a channel without descriptors is closed at once", a_channel_without_descriptors_is_closed_at_once},
    {"rights are refused where the kernel can", rights_are_refused_where_the_kernel_can},
    {"a message is awaited", a_message_is_awaited},
    {"a message that is there is there soon", a_message_that_is_there_is_there_soon},
    {"a watch is for input or for the end", a_watch_is_for_input_or_for_the_end},
    {"a word is waited for", a_word_is_waited_for},
    {0},
};
