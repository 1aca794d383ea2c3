// SPDX-License-Identifier: Apache-2.0

/// A worker, as its pool's policy records it.
struct PoolWorker {
    /// starting → ready → draining → ending, each with a deadline except ready.
    enum State {
        /// It must be ready by then.
        case starting(until: Instant)
        case ready
        /// It was asked to drain, or drains by itself.
        case draining(PreforkServer.DrainReason, since: Instant, until: Instant)
        /// It was sent a signal that ends it, because it was stuck or took too long to drain. It gets SIGKILL at
        /// `killAt`.
        case ending(PreforkServer.DrainReason?, killAt: Instant)
        case killed
    }

    let pid: ProcessID
    let number: Int
    let startedAt: Instant
    /// Whether it was forked while all workers were being replaced.
    let isReplacement: Bool
    let retiresAt: Instant?
    var state: State
    /// Why it drains as soon as its replacement is ready; nil if it does not.
    var pendingDrainReason: PreforkServer.DrainReason?
    /// Its state at the last check.
    var snapshot: WorkerSnapshot
    /// Whether it drained by itself before its first request, which was counted as a failure.
    var hasFailed = false

    /// Whether it serves or is starting.
    var isActive: Bool {
        switch state {
        case .starting, .ready: true
        case .draining, .ending, .killed: false
        }
    }

    var isReady: Bool {
        if case .ready = state { true } else { false }
    }

    var isDraining: Bool {
        if case .draining = state { true } else { false }
    }

    /// Whether it could serve a client at once.
    var isIdle: Bool { isReady && !snapshot.isBusy && !snapshot.hasConnection }

    /// Whether it drains because another has taken its place.
    var wasReplaced: Bool {
        if case .draining(let reason, _, _) = state { reason != .excess && reason != .signalled } else { false }
    }

    /// The deadline of its state.
    var deadline: Instant? {
        switch state {
        case .starting(let until), .draining(_, _, let until), .ending(_, let until): until
        case .ready, .killed: nil
        }
    }

    /// Whether it has proved that it works: it has had a request, or has been up for a while. The latter is for workers
    /// that have no clients, or do not count them.
    func hasProved(_ now: Instant) -> Bool {
        snapshot.isReady && (snapshot.requests > 0 || now - startedAt > .seconds(10))
    }

    /// Whether it drains by itself without having served, so that a replacement would do the same at once.
    func isFailedStart(_ reason: PreforkServer.DrainReason, _ now: Instant) -> Bool {
        switch reason {
        case .signalled where !snapshot.isReady: true
        case .signalled, .retired: snapshot.requests == 0 && now - startedAt < .seconds(1)
        default: false
        }
    }
}
