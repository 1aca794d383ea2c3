// SPDX-License-Identifier: Apache-2.0
//
// Closing what strangers sent. To close a descriptor can take as long as its owner likes: a socket lingers, a file
// system answers late. So it is done by threads that are there for nothing else, come when there is something to close,
// and end when there is not. The number of a descriptor is free as soon as its close begins, however long that takes.

#include "internal.h"
#include "forkcore_zygote.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { CLOSERS = 16, STACK = 256 * 1024 }; // the stack has what is thread-local in it

struct batch {
    struct batch *next;
    size_t count;
    int descriptors[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct batch *first;
static int closers;

// The next one to close, or -1 where nothing is left: the thread ends then, and is not counted any more.
static int next(void)
{
    int descriptor = -1;
    pthread_mutex_lock(&lock);
    struct batch *batch = first;
    if (batch == NULL) {
        closers--;
    } else {
        descriptor = batch->descriptors[--batch->count];
        if (batch->count == 0) {
            first = batch->next;
            free(batch);
        }
    }
    pthread_mutex_unlock(&lock);
    return descriptor;
}

// A socket that was told to linger need not; what it is told after this is the sender's own affair, and holds up this
// thread.
static void *close_what_came(void *nothing)
{
    const struct linger none = {0};
    for (int descriptor; (descriptor = next()) >= 0;) {
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &none, sizeof none);
        forkcore_close(descriptor);
    }
    return nothing;
}

// With the lock. As many as there are descriptors, as each may be held up; if there is no thread to be had, those that
// there are do it, or the next call.
static void start_closers(size_t wanted)
{
    sigset_t all, mask;
    pthread_attr_t attributes;
    pthread_t thread;
    if (pthread_attr_init(&attributes) != 0)
        return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK);
    sigfillset(&all); // the process's signals are for others
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    for (; wanted > 0 && closers < CLOSERS; wanted--) {
        if (pthread_create(&thread, &attributes, close_what_came, NULL) != 0)
            break;
        closers++;
    }
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    pthread_attr_destroy(&attributes);
}

int forkcore_discard(const int *descriptors, size_t count)
{
    if (count == 0)
        return 0;
    struct batch *batch = malloc(sizeof *batch + count * sizeof(int));
    if (batch == NULL)
        return ENOMEM;
    batch->count = count;
    memcpy(batch->descriptors, descriptors, count * sizeof(int));
    pthread_mutex_lock(&lock);
    batch->next = first;
    first = batch;
    start_closers(count);
    pthread_mutex_unlock(&lock);
    return 0;
}

// What is next in a channel that nothing comes to any more.
enum queued { NOTHING, BYTES, DESCRIPTORS };

static enum queued peek(int channel)
{
    char byte;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1};
    ssize_t got;
    while ((got = recvmsg(channel, &header, MSG_PEEK | MSG_DONTWAIT)) < 0)
        if (errno != EINTR && errno != ECONNRESET) // that is told once, before what is queued
            return NOTHING;
    if (header.msg_flags & MSG_CTRUNC) // it has what there was no room for
        return DESCRIPTORS;
    return got > 0 ? BYTES : NOTHING;
}

// Whether what looks like the end is an empty message, which there may be descriptors behind: that comes with its
// sender's credentials, if they are asked for.
static bool is_empty_message(int channel)
{
    return setsockopt(channel, SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int)) != 0 || peek(channel) == DESCRIPTORS;
}

// Takes what is mere bytes. Whether there may be more.
static bool holds_descriptors(int channel)
{
    char byte;
    for (int i = 0; i < 16; i++)
        switch (peek(channel)) {
        case NOTHING: return is_empty_message(channel);
        case BYTES: recv(channel, &byte, 1, MSG_DONTWAIT); break;
        case DESCRIPTORS: return true;
        }
    return true;
}

void forkcore_channel_close(int channel)
{
    shutdown(channel, SHUT_RDWR); // nothing comes after this
    if (!holds_descriptors(channel) || forkcore_discard(&channel, 1) != 0)
        forkcore_close(channel);
}
