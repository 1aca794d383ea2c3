// SPDX-License-Identifier: Apache-2.0
//
// forkcore, continued: the peers of streams, of which one that goes on sending is to get its whole answer, and one that
// has vanished is to be found. The rules of forkcore.h hold here. Any process. All signal-safe.

#ifndef FORKCORE_PEERS_H
#define FORKCORE_PEERS_H

#include "forkcore.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Says that nothing more will be sent, and waits until the peer has it all: it has acknowledged everything, or has
/// closed too; at most for `limit_ms`, and not while it sends without end. What comes meanwhile is thrown away. Closed
/// then, the stream ends for the peer as it should. `local`: it is a Unix socket, whose peer has it all at once.
/// shutdown(2), recv(2), SIOCOUTQ in tcp(7).
void forkcore_finish(int descriptor, bool local, int64_t limit_ms);

/// The same without waiting, for a TCP socket by which forkcore_finish_sending has said so: whether it is too early to
/// close.
bool forkcore_linger(int descriptor);

/// SO_KEEPALIVE of a TCP socket: after so many seconds of silence its peer's host is asked whether it still knows of
/// the connection, then each `interval_s`; `count` times without an answer, and the connection ends. `idle_s` 0: it is
/// not asked.
int forkcore_set_keepalive(int descriptor, int idle_s, int interval_s, int count);

/// TCP_USER_TIMEOUT: how long what was sent may stay unacknowledged, or find no room at the peer; 0: the kernel's own
/// limit.
int forkcore_set_user_timeout(int descriptor, unsigned timeout_ms);

#ifdef __cplusplus
}
#endif

#endif
