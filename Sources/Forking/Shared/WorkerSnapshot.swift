// SPDX-License-Identifier: Apache-2.0

/// What a worker says of itself, as far as it can be so: a worker that lies can make itself look busy, idle, or stuck,
/// and be replaced for it; nothing else comes of it.
struct WorkerSnapshot: Sendable {
    var isReady: Bool
    var wantsToRetire: Bool
    var isDraining: Bool
    var isBusy: Bool
    var hasConnection: Bool
    var requests: UInt64
    /// When a request began or ended last.
    var since: Instant
    /// When the request began that is being served for longest, of those that have a limit.
    var oldest: Instant?
    var beat: Instant
    var peer: SocketAddress?
}
