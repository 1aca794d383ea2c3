// SPDX-License-Identifier: Apache-2.0
//
// Closes descriptors from untrusted senders. A close can take as long as the descriptor's owner likes: a socket
// lingers, a file system answers late. So threads do it that have no other work. They start when there is something to
// close, and end when there is not. A descriptor's number is free as soon as its close begins, however long that takes.
// Host.

#include "internal.h"
#include "forkcore_zygote.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { CLOSERS = 16, STACK = 256 * 1024 }; // the stack also holds thread-local variables

struct batch {
    struct batch *next;
    size_t count;
    int descriptors[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct batch *first;
static int closers;

// The next descriptor to close, or -1 if there is none: then the thread must end, and is no longer counted.
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

// Turns lingering off. If the sender turns it on again after that, it delays only this thread.
static void *close_what_came(void *nothing)
{
    const struct linger none = {0};
    for (int descriptor; (descriptor = next()) >= 0;) {
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &none, sizeof none);
        forkcore_close(descriptor);
    }
    return nothing;
}

// Under the lock. One thread per descriptor, because each may block. If no thread can be created, the existing threads
// close the descriptors, or those of the next call.
static void start_closers(size_t wanted)
{
    sigset_t all, mask;
    pthread_attr_t attributes;
    pthread_t thread;
    if (pthread_attr_init(&attributes) != 0)
        return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK);
    sigfillset(&all); // other threads handle the process's signals
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

// The next entry in the queue of a channel that receives nothing any more.
enum queued { NOTHING, BYTES, DESCRIPTORS };

static enum queued peek(int channel)
{
    char byte;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1};
    ssize_t got;
    while ((got = recvmsg(channel, &header, MSG_PEEK | MSG_DONTWAIT)) < 0)
        if (errno != EINTR && errno != ECONNRESET) // reported once, before the queue
            return NOTHING;
    if (header.msg_flags & MSG_CTRUNC) // it has control data, for which there was no room
        return DESCRIPTORS;
    return got > 0 ? BYTES : NOTHING;
}

// Whether what looks like the end of file is an empty message, behind which there may be descriptors. A message comes
// with its sender's credentials if they are asked for; the end of file does not.
static bool is_empty_message(int channel)
{
    return setsockopt(channel, SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int)) != 0 || peek(channel) == DESCRIPTORS;
}

// Discards messages without descriptors. Returns whether there may be descriptors.
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
    shutdown(channel, SHUT_RDWR); // nothing arrives after this
    if (!holds_descriptors(channel) || forkcore_discard(&channel, 1) != 0)
        forkcore_close(channel);
}
