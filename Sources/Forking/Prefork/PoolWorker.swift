// SPDX-License-Identifier: Apache-2.0

/// A worker, as its parent knows it.
struct PoolWorker {
    /// starting → ready → draining → ending, each but the second with its deadline.
    enum State {
        /// To be ready until then.
        case starting(until: Instant)
        case ready
        /// It was asked to drain, or drains of its own.
        case draining(DrainReason, since: Instant, until: Instant)
        /// It was sent a signal that ends it, as it was stuck or took too long to drain, and gets SIGKILL then.
        case ending(DrainReason?, killAt: Instant)
        case killed
    }

    let pid: ProcessID
    let number: Int
    let startedAt: Instant
    /// Forked to take the place of one that is to be replaced with all others.
    let isReplacement: Bool
    let retiresAt: Instant?
    let seat: Seat
    /// Closed, it asks the worker to drain.
    var lifeline: ParentDescriptor?
    /// Closed, as it is when the parent ends, it ends the worker.
    let tie: ParentDescriptor
    var state: State
    /// It is to drain for this reason as soon as there is another in its place.
    var leaving: DrainReason?
    /// As of the last look.
    var reading: SeatReading
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
    var isIdle: Bool { isReady && !reading.isBusy && !reading.hasConnection }

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

    mutating func askToDrain() {
        seat.askToDrain()
        lifeline = nil
    }
}
