// SPDX-License-Identifier: Apache-2.0
//
// forkcore, continued: what a host, its zygote and the zygote's children say to each other, and what a child can be
// limited to. The rules of forkcore.h hold here.

#ifndef FORKCORE_ZYGOTE_H
#define FORKCORE_ZYGOTE_H

#include "forkcore.h"

#ifdef __cplusplus
extern "C" {
#endif

// ---------------------------------------------------------------------------------------------------------- messages
// Over a pair of forkcore_channel_open, whole or not at all. Any process. Signal-safe. unix(7), SCM_RIGHTS.

/// How many descriptors one message can carry.
enum { FORKCORE_DESCRIPTORS = 253 };

/// A message: `head`, of a size that both ends know, then `bytes`, and descriptors.
struct forkcore_message {
    void *head;
    size_t head_size;
    void *bytes;
    size_t count;
    int *descriptors;
    size_t descriptor_count;
};

/// Sends one without waiting; the caller's descriptors stay open. EAGAIN when the other end has yet to take earlier
/// ones, EMSGSIZE when it is longer than the socket's buffer, EPIPE or ECONNRESET when nobody will take it,
/// ETOOMANYREFS when too many descriptors are under way.
int forkcore_message_send(int channel, const struct forkcore_message *message);

/// The same, but waits for room: until the other end takes what is there, or closes. Child.
int forkcore_message_post(int channel, const struct forkcore_message *message);

/// Doubles what can be under way to the other end, where a child may have used it up. The kernel allows that once.
int forkcore_message_make_room(int channel);

/// How long the next message is, its head included, without taking it. EAGAIN when there is none, ESHUTDOWN when there
/// will be none.
int forkcore_message_size(int channel, size_t *size);

/// Takes the next one, without waiting. `count` and `descriptor_count` say how much room there is, and then what came;
/// the descriptors are close-on-exec. EAGAIN and ESHUTDOWN as above; EMSGSIZE when it was shorter than its head, or
/// longer than the room; EMFILE when this process had no room for its descriptors.
///
/// The caller closes what came, also where this fails: by forkcore_discard what a stranger sent. With room for fewer
/// than FORKCORE_DESCRIPTORS those that are too many are closed here, which is for trusted senders only.
int forkcore_message_receive(int channel, struct forkcore_message *message);

/// Whether the other end has closed, or will send no more.
bool forkcore_hung_up(int channel);

/// As forkcore_poll_add, but for when the other end closes, or will send no more. EPOLLRDHUP.
int forkcore_poll_add_hang_up(int descriptor, int watched, uint64_t token);

// ----------------------------------------------------------------------------------------------------- strangers' things
// Host. Neither signal-safe nor for a process that forks: they start threads.

/// Closes descriptors that a stranger sent, without waiting, although to close them may take as long as he likes:
/// threads do it, which are there as long as there is something to close. From now on they are not the caller's.
/// ENOMEM: nothing was done. pthread_create(3), close(2), SO_LINGER in socket(7).
int forkcore_discard(const int *descriptors, size_t count);

/// Closes a channel, likewise: what was not received from it is closed with it.
void forkcore_channel_close(int channel);

// ------------------------------------------------------------------------------------------------------------- waiting
// A word that threads of a process wait for. Any process, any thread. Signal-safe. futex(2).

/// Changes it, and wakes all.
void forkcore_word_advance(uint32_t *word);

/// What it is now.
uint32_t forkcore_word_value(const uint32_t *word);

/// Waits while it has this value, but no longer than `timeout_ns`. It may return without a reason.
void forkcore_word_wait(const uint32_t *word, uint32_t value, int64_t timeout_ns);

/// Whether libdispatch, where it is linked in, has started threads in this process: a child's Tasks would wait for
/// them.
///
/// Any process. Signal-safe.
bool forkcore_dispatch_has_threads(void);

#ifdef __cplusplus
}
#endif

#endif
