// SPDX-License-Identifier: Apache-2.0
//
// The end of a stream. Child, worker. If a TCP socket is closed with unread input, or input arrives after the close,
// the kernel sends a reset, and discards output that it had not delivered yet: an answer would be cut off because the
// client sent something more. So we first shut down sending, and then discard input until the peer has acknowledged
// everything, or has closed too. RFC 9112, 9.6.

#include "internal.h"

#include "forkcore_peers.h"

#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum {
    PIECE = 16384,
    PIECES_AT_ONCE = 256,
    MOST = 64 << 20,        // how much a peer may send while its answer is delivered
    FIRST_PAUSE_MS = 5,     // no event reports an acknowledgement: we ask after growing pauses
    LONGEST_PAUSE_MS = 100, // longer than any kernel delays an acknowledgement
};

// Discards input. Returns whether the peer may send more and has not acknowledged everything.
static bool look(int descriptor, int64_t *thrown_away)
{
    char waste[PIECE]; // with MSG_TRUNC TCP does not write to it
    for (int i = 0; i < PIECES_AT_ONCE; i++) {
        ssize_t got = recv(descriptor, waste, sizeof waste, MSG_DONTWAIT | MSG_TRUNC);
        if (got > 0)
            *thrown_away += got;
        else if (got == 0 || (errno != EINTR && errno != EAGAIN))
            return false;
        else if (errno == EAGAIN)
            break;
    }
    int unacknowledged = 0; // includes the end of the stream, which counts as one byte. SIOCOUTQ is the same ioctl.
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

// Most peers close when they have everything, so we first wait for that.
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
    // The peer of a Unix socket keeps what it has not read yet. But input that arrived after our last read would cause
    // a reset after the answer, so we also shut down receiving.
    shutdown(descriptor, local ? SHUT_RDWR : SHUT_WR);
    if (local)
        forkcore_linger(descriptor);
    else
        await_peer(descriptor, limit_ms);
}
