// SPDX-License-Identifier: Apache-2.0
//
// The end of a stream. A TCP socket that is closed with something unread, or that something comes to after it was
// closed, answers by a reset, and the kernel throws away what it had not delivered yet: an answer would be cut off
// because its reader said one more word. So the sending side is closed first, and what comes is thrown away, until the
// peer has acknowledged everything, or has closed too. RFC 9112, 9.6.

#include "internal.h"

#include "forkcore_peers.h"

#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum {
    PIECE = 16384,
    PIECES_AT_ONCE = 256,
    MOST = 64 << 20,        // what a peer may send against its own answer
    FIRST_PAUSE_MS = 5,     // an acknowledgement is no event: it is asked for, after longer and longer pauses
    LONGEST_PAUSE_MS = 100, // more than any kernel delays one
};

/// Throws away what has come. Whether the peer may send more, and has not acknowledged all.
static bool look(int descriptor, int64_t *thrown_away)
{
    char waste[PIECE]; // TCP does not write to it
    for (int i = 0; i < PIECES_AT_ONCE; i++) {
        ssize_t got = recv(descriptor, waste, sizeof waste, MSG_DONTWAIT | MSG_TRUNC);
        if (got > 0)
            *thrown_away += got;
        else if (got == 0 || (errno != EINTR && errno != EAGAIN))
            return false;
        else if (errno == EAGAIN)
            break;
    }
    int unacknowledged = 0; // its end, which counts as one, included. SIOCOUTQ is this by another name.
    return ioctl(descriptor, TIOCOUTQ, &unacknowledged) == 0 && unacknowledged > 0;
}

bool forkcore_linger(int descriptor)
{
    int64_t thrown_away = 0;
    return look(descriptor, &thrown_away);
}

static int64_t milliseconds(void)
{
    return forkcore_now() / 1000000;
}

// Most peers close when they have it all: so that is waited for first, and for those is all there is to do.
static void await_peer(int descriptor, int64_t limit_ms)
{
    int64_t end = milliseconds() + limit_ms, rest = limit_ms, pause = FIRST_PAUSE_MS, thrown_away = 0;
    do {
        poll(&(struct pollfd){.fd = descriptor, .events = POLLIN}, 1, (int)(pause < rest ? pause : rest));
        if (!look(descriptor, &thrown_away))
            return;
        pause = 2 * pause < LONGEST_PAUSE_MS ? 2 * pause : LONGEST_PAUSE_MS;
        rest = end - milliseconds();
    } while (rest > 0 && thrown_away < MOST);
}

void forkcore_finish(int descriptor, bool local, int64_t limit_ms)
{
    // What a Unix socket's peer has not read yet stays with it. But a word that came after the last look would be a
    // reset to it, behind the answer: so no more comes.
    shutdown(descriptor, local ? SHUT_RDWR : SHUT_WR);
    if (local)
        forkcore_linger(descriptor);
    else
        await_peer(descriptor, limit_ms);
}
