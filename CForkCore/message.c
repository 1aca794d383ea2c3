// SPDX-License-Identifier: Apache-2.0
//
// Messages with descriptors, and futexes. Host, zygote, child.

#include "internal.h"
#include "forkcore_zygote.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { FUTEX_WAIT = 0, FUTEX_WAKE = 1, FUTEX_PRIVATE = 128 }; // linux/futex.h, which not every libc comes with

// Room for as many descriptors as the kernel passes at once, aligned as cmsg(3) requires.
union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(FORKCORE_DESCRIPTORS * sizeof(int))];
};

static int send_with(int channel, const struct forkcore_message *message, int flags)
{
    union control control;
    struct iovec data[2] = {{message->head, message->head_size}, {message->bytes, message->count}};
    struct msghdr header = {.msg_iov = data, .msg_iovlen = 2};
    size_t size = message->descriptor_count * sizeof(int);

    if (message->descriptor_count > FORKCORE_DESCRIPTORS)
        return EINVAL;
    if (size > 0) {
        control.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(size), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), message->descriptors, size);
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE(size);
    }
    // Without libc: musl's sendmsg allows only 1024 bytes of control data, which are 252 descriptors.
    while (syscall(SYS_sendmsg, channel, &header, MSG_NOSIGNAL | flags) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

int forkcore_message_send(int channel, const struct forkcore_message *message)
{
    return send_with(channel, message, MSG_DONTWAIT);
}

int forkcore_message_post(int channel, const struct forkcore_message *message)
{
    return send_with(channel, message, 0);
}

int forkcore_message_make_room(int channel)
{
    int size;
    if (getsockopt(channel, SOL_SOCKET, SO_SNDBUF, &size, &(socklen_t){sizeof size}) != 0)
        return errno;
    return setsockopt(channel, SOL_SOCKET, SO_SNDBUF, &size, sizeof size) != 0 ? errno : 0; // the kernel doubles it
}

// ECONNRESET: the other end closed with unread messages. The kernel reports this once, before what it had sent.
static bool is_to_be_tried_again(void)
{
    return errno == EINTR || errno == ECONNRESET;
}

int forkcore_message_size(int channel, size_t *size)
{
    char nothing;
    ssize_t got;
    while ((got = recv(channel, &nothing, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT)) < 0)
        if (!is_to_be_tried_again())
            return errno;
    *size = (size_t)got;
    return got == 0 && forkcore_hung_up(channel) ? ESHUTDOWN : 0; // otherwise the other end has sent an empty message
}

// Closes descriptors for which there is no room: only callers that trust the sender have room for fewer than the
// maximum.
static size_t take_descriptors(struct msghdr *header, int *descriptors, size_t capacity, size_t *beyond)
{
    size_t count = 0;
    *beyond = 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part != NULL; part = CMSG_NXTHDR(header, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = 0; CMSG_LEN((at + 1) * sizeof(int)) <= part->cmsg_len; at++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(part) + at * sizeof(int), sizeof descriptor);
            if (count < capacity) {
                descriptors[count++] = descriptor;
            } else {
                forkcore_close(descriptor);
                *beyond += 1;
            }
        }
    }
    return count;
}

static int receive_with(int channel, struct forkcore_message *message, int flags)
{
    union control control;
    struct iovec data[2] = {{message->head, message->head_size}, {message->bytes, message->count}};
    struct msghdr header = {.msg_iov = data, .msg_iovlen = 2, .msg_control = &control, .msg_controllen = sizeof control};
    size_t beyond;
    ssize_t got;

    while ((got = recvmsg(channel, &header, MSG_CMSG_CLOEXEC | flags)) < 0)
        if (!is_to_be_tried_again()) {
            message->descriptor_count = 0;
            return errno;
        }
    size_t capacity = message->descriptor_count;
    message->descriptor_count = take_descriptors(&header, message->descriptors, capacity, &beyond);
    message->count = (size_t)got < message->head_size ? 0 : (size_t)got - message->head_size;
    if (got == 0 && message->descriptor_count == 0 && forkcore_hung_up(channel))
        return ESHUTDOWN;
    if (header.msg_flags & MSG_CTRUNC)
        return EMFILE;
    return (size_t)got < message->head_size || (header.msg_flags & MSG_TRUNC) || beyond > 0 ? EMSGSIZE : 0;
}

int forkcore_message_receive(int channel, struct forkcore_message *message)
{
    return receive_with(channel, message, MSG_DONTWAIT);
}

int forkcore_message_await(int channel, struct forkcore_message *message)
{
    return receive_with(channel, message, 0);
}

bool forkcore_hung_up(int channel)
{
    struct pollfd polled = {.fd = channel, .events = POLLRDHUP};
    return poll(&polled, 1, 0) > 0;
}

bool forkcore_readable_soon(int channel, int64_t ns)
{
    int64_t end = forkcore_now() + ns;
    do {
        struct pollfd polled = {.fd = channel, .events = POLLIN};
        if (poll(&polled, 1, 0) > 0)
            return true;
        sched_yield();
    } while (forkcore_now() < end);
    return false;
}

int forkcore_poll_add_hang_up(int descriptor, int watched, uint64_t token)
{
    struct epoll_event event = {.events = EPOLLRDHUP, .data = {.u64 = token}};
    return epoll_ctl(descriptor, EPOLL_CTL_ADD, watched, &event) != 0 ? errno : 0;
}

int forkcore_poll_watch(int descriptor, int watched, uint64_t token, bool input)
{
    struct epoll_event event = {.events = EPOLLRDHUP | (input ? EPOLLIN : EPOLLET), .data = {.u64 = token}};
    if (epoll_ctl(descriptor, EPOLL_CTL_MOD, watched, &event) == 0)
        return 0;
    return errno == ENOENT && epoll_ctl(descriptor, EPOLL_CTL_ADD, watched, &event) == 0 ? 0 : errno;
}

// The lowest bit says that a thread may be waiting, so that a word that no thread waits for costs no system call.
enum { AWAITED = 1, STEP = 2 };

void forkcore_word_advance(uint32_t *word)
{
    uint32_t old = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(word, &old, (old + STEP) & ~(uint32_t)AWAITED, false, __ATOMIC_RELEASE,
                                        __ATOMIC_RELAXED)) {}
    if (old & AWAITED)
        syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

uint32_t forkcore_word_value(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE) & ~(uint32_t)AWAITED;
}

void forkcore_word_wait(uint32_t *word, uint32_t value, int64_t timeout_ns)
{
    struct timespec timeout = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    uint32_t old = __atomic_load_n(word, __ATOMIC_RELAXED);
    do {
        if ((old & ~(uint32_t)AWAITED) != value)
            return;
    } while (!__atomic_compare_exchange_n(word, &old, value | AWAITED, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    syscall(SYS_futex, word, FUTEX_WAIT | FUTEX_PRIVATE, value | AWAITED, &timeout, NULL, 0);
}
