// SPDX-License-Identifier: Apache-2.0
//
// A worker writes these values, and the parent reads them.

/// A worker's state as it reports it itself, limited to what is possible. A worker that reports a false state can look
/// busy, idle or stuck, and be replaced for that. It has no other effect.
struct WorkerSnapshot: Sendable {
    var isReady: Bool
    var wantsToRetire: Bool
    var isDraining: Bool
    var isBusy: Bool
    var hasConnection: Bool
    var requests: UInt64
    /// When a request last began or ended.
    var since: Instant
    /// When the oldest request began that is being served, among those with a timeout.
    var oldest: Instant?
    var beat: Instant
    var peer: SocketAddress?
}
