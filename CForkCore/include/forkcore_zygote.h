// SPDX-License-Identifier: Apache-2.0
//
// forkcore, continued: messages between a host, its zygote and the zygote's children. The rules of forkcore.h apply
// here.

#ifndef FORKCORE_ZYGOTE_H
#define FORKCORE_ZYGOTE_H

#include "forkcore.h"

#ifdef __cplusplus
extern "C" {
#endif

// ---------------------------------------------------------------------------------------------------------- messages
// Over a pair of forkcore_channel_open, completely or not at all. Any process. Signal-safe. unix(7), SCM_RIGHTS.

/// Maximum number of descriptors per message.
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

/// Sends a message without waiting; the caller's descriptors stay open. EAGAIN while earlier messages fill the socket,
/// EMSGSIZE when it is longer than the socket's buffer, EPIPE or ECONNRESET when no process can receive it,
/// ETOOMANYREFS when too many descriptors are in flight.
int forkcore_message_send(int channel, const struct forkcore_message *message);

/// The same, but waits until the other end has made room, or closes. Child.
int forkcore_message_post(int channel, const struct forkcore_message *message);

/// Doubles the socket's send buffer, in case a child has used it up. The kernel allows this once.
int forkcore_message_make_room(int channel);

/// The length of the next message, including its head, without receiving it. EAGAIN when there is none yet, ESHUTDOWN
/// when there will be none.
int forkcore_message_size(int channel, size_t *size);

/// Receives the next message, without waiting. `count` and `descriptor_count` are the room there is, and afterwards
/// what came; the descriptors are close-on-exec. EAGAIN and ESHUTDOWN as above; EMSGSIZE when it was shorter than its
/// head, or longer than the room; EMFILE when this process had no room for its descriptors.
///
/// The caller closes the descriptors that came, even if this fails; descriptors from an untrusted sender by
/// forkcore_discard. With room for fewer than FORKCORE_DESCRIPTORS, further descriptors are closed here: do this only
/// with trusted senders.
int forkcore_message_receive(int channel, struct forkcore_message *message);

/// The same, but waits for the message, with one system call. A child whose process serves many calls.
int forkcore_message_await(int channel, struct forkcore_message *message);

/// Whether the other end has closed, or will send no more.
bool forkcore_hung_up(int channel);

/// Whether a channel becomes readable, or is closed, within that many nanoseconds. The processor does not go to sleep
/// meanwhile, but other threads run on it: for an answer that takes less time than to wake a processor. sched_yield(2).
bool forkcore_readable_soon(int channel, int64_t ns);

/// As forkcore_poll_add, but reports when the other end closes, or will send no more. EPOLLRDHUP.
int forkcore_poll_add_hang_up(int descriptor, int watched, uint64_t token);

/// Watches `watched`, or watches it for something else than before: with `input` as both of these, until there is
/// nothing to receive; without, only for the other end's close, which is reported once. Host.
int forkcore_poll_watch(int descriptor, int watched, uint64_t token, bool input);

// ------------------------------------------------------------------------------- descriptors from untrusted senders
// Host. Neither signal-safe nor for a process that forks: these functions start threads.

/// Closes descriptors from an untrusted sender without waiting, although each close may take as long as the sender
/// likes: threads do it, which run only as long as there is something to close. From now on the descriptors do not
/// belong to the caller. ENOMEM: nothing was done. pthread_create(3), close(2), SO_LINGER in socket(7).
int forkcore_discard(const int *descriptors, size_t count);

/// Closes a channel in the same way, with the messages that were not received from it.
void forkcore_channel_close(int channel);

// ------------------------------------------------------------------------------------------------------------- waiting
// A counter that threads of one process wait for. Any process, any thread. Signal-safe. futex(2).

/// Changes the value, and wakes all waiting threads.
void forkcore_word_advance(uint32_t *word);

/// The current value.
uint32_t forkcore_word_value(const uint32_t *word);

/// Waits while it has this value, but no longer than `timeout_ns`. It may return spuriously.
void forkcore_word_wait(uint32_t *word, uint32_t value, int64_t timeout_ns);

/// Whether libdispatch, if it is linked in, has started threads in this process: the Tasks of a child would wait for
/// them.
///
/// Any process. Signal-safe.
bool forkcore_dispatch_has_threads(void);

#ifdef __cplusplus
}
#endif

#endif
