// SPDX-License-Identifier: Apache-2.0
//
// forkcore, continued: the peers of streams. A peer that goes on sending must get its whole answer, and a peer that has
// vanished must be noticed. The rules of forkcore.h apply here. Any process. All signal-safe.

#ifndef FORKCORE_PEERS_H
#define FORKCORE_PEERS_H

#include "forkcore.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Shuts down sending, and waits until the peer has acknowledged everything, or has closed too. It waits at most
/// `limit_ms`, and stops early if the peer sends without end. Input is discarded meanwhile. If the descriptor is closed
/// afterwards, the peer sees an orderly end of the stream. `local`: it is a Unix socket, whose peer has everything at
/// once. shutdown(2), recv(2), SIOCOUTQ in tcp(7).
void forkcore_finish(int descriptor, bool local, int64_t limit_ms);

/// The same without waiting, for a TCP socket after forkcore_finish_sending. Returns whether it is too early to close
/// it.
bool forkcore_linger(int descriptor);

/// SO_KEEPALIVE of a TCP socket: after `idle_s` seconds of silence the kernel probes the peer's host every `interval_s`
/// seconds; after `count` probes without an answer the connection ends. `idle_s` 0: no probes.
int forkcore_set_keepalive(int descriptor, int idle_s, int interval_s, int count);

/// TCP_USER_TIMEOUT: how long sent data may stay unacknowledged, or find no room at the peer; 0: the kernel's default.
int forkcore_set_user_timeout(int descriptor, unsigned timeout_ms);

#ifdef __cplusplus
}
#endif

#endif
