// SPDX-License-Identifier: Apache-2.0

/// A worker, as the policy of its pool knows it.
struct PoolWorker {
    /// starting → ready → draining → ending, each but the second with its deadline.
    enum State {
        /// To be ready until then.
        case starting(until: Instant)
        case ready
        /// It was asked to drain, or drains of its own.
        case draining(PreforkServer.DrainReason, since: Instant, until: Instant)
        /// It was sent a signal that ends it, as it was stuck or took too long to drain, and gets SIGKILL then.
        case ending(PreforkServer.DrainReason?, killAt: Instant)
        case killed
    }

    let pid: ProcessID
    let number: Int
    let startedAt: Instant
    /// Forked to take the place of one that is to be replaced with all others.
    let isReplacement: Bool
    let retiresAt: Instant?
    var state: State
    /// It is to drain for this reason as soon as there is another in its place.
    var pendingDrainReason: PreforkServer.DrainReason?
    /// As of the last look.
    var snapshot: WorkerSnapshot
    /// It drained of its own before it had done anything, which was counted as a failure.
    var hasFailed = false

    /// Whether it serves, or is about to.
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

    /// Whether it could serve at once.
    var isIdle: Bool { isReady && !snapshot.isBusy && !snapshot.hasConnection }

    /// Whether it drains because another has taken its place.
    var wasReplaced: Bool {
        if case .draining(let reason, _, _) = state { reason != .excess && reason != .signalled } else { false }
    }

    /// When its next stage comes.
    var deadline: Instant? {
        switch state {
        case .starting(let until), .draining(_, _, let until), .ending(_, let until): until
        case .ready, .killed: nil
        }
    }

    /// Whether it can do what it is there for: it has had a request; or it is up for long and has no clients, or does
    /// not count them.
    func hasProved(_ now: Instant) -> Bool {
        snapshot.isReady && (snapshot.requests > 0 || now - startedAt > .seconds(10))
    }

    /// Whether it drains of its own and has done nothing, so that another in its place would do the same at once.
    func isFailedStart(_ reason: PreforkServer.DrainReason, _ now: Instant) -> Bool {
        switch reason {
        case .signalled where !snapshot.isReady: true
        case .signalled, .retired: snapshot.requests == 0 && now - startedAt < .seconds(1)
        default: false
        }
    }
}
