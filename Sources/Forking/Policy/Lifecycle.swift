// SPDX-License-Identifier: Apache-2.0

/// The life of a server, from its first client to its end. Only this type changes the state; the server carries out
/// what it returns.
///
/// A server has a `state`: it serves, stops, or has stopped.
///
///     serving ──▶ stopping: drain ──▶ terminate ──▶ kill ──▶ stopped
///
/// Each arrow is a stop that was requested, which may skip steps but never goes back, or a deadline that has passed.
/// Once no child is left, the server has stopped. And it has a `standing` among the programs that serve on the same
/// sockets one after the other, because each upgrade starts the next:
///
///     starting ──▶ (unconfirmed) ──▶ main ──▶ replaced
struct Lifecycle {
    enum State: Equatable {
        case serving
        case stopping(StopStep, until: Instant)
        case stopped
    }

    enum Standing: Equatable {
        case starting
        /// It serves. Its predecessor has neither told the service manager yet, nor ended.
        case unconfirmed
        case main
        /// The next program serves.
        case replaced
    }

    /// What a server does as it stops, in this order.
    struct Actions: OptionSet {
        let rawValue: UInt8
        /// Gives up an upgrade that is in progress.
        static let abandonSuccessor = Actions(rawValue: 1)
        /// Accepts the clients that have already connected: they are still served.
        static let acceptWaiting = Actions(rawValue: 2)
        /// Closes its listeners.
        static let stopAccepting = Actions(rawValue: 4)
        /// Tells the service manager that the service ends.
        static let announceEnd = Actions(rawValue: 8)
        static let terminateChildren = Actions(rawValue: 16)
        static let killChildren = Actions(rawValue: 32)
    }

    struct Stop: Equatable {
        let step: StopStep
        let actions: Actions
        /// How long the rest of the stop may take; nil: the server has stopped.
        let rest: Duration?
    }

    /// What a deadline leads to.
    enum Due: Equatable {
        case stop(Stop)
        /// Some children are still alive after SIGKILL. The server has stopped without them.
        case abandonChildren
    }

    private(set) var state = State.serving
    private(set) var standing = Standing.starting
    /// Whether its loop is running. Between two calls of `serveOne()`, a server's state is `serving`, but its loop does
    /// not run.
    private(set) var isRunning = false

    private let drainTimeout: Duration
    private let killTimeout: Duration
    private let waitsForChildren: Bool

    /// A process that was sent SIGKILL ends at once, unless it is stuck in the kernel.
    static let patienceWithKernel = Duration.seconds(5)

    /// - Parameters:
    ///   - drainTimeout: from the step drain to terminate.
    ///   - killTimeout: from terminate to kill.
    ///   - waitsForChildren: if false, the first step of stopping is the last, and the children continue.
    init(drainTimeout: Duration, killTimeout: Duration, waitsForChildren: Bool = true) {
        self.drainTimeout = drainTimeout
        self.killTimeout = killTimeout
        self.waitsForChildren = waitsForChildren
    }

    // MARK: The loop

    /// Throws unless the loop can begin.
    ///
    /// - Throws: `ForkingError.Code.invalid` if it is already running, because this is called from a hook; or if the
    ///   server was stopped.
    func requireRunnable() throws(ForkingError) {
        try requireNotRunning()
        guard state == .serving else { throw .invalid("this server was stopped: make a new one") }
    }

    func requireNotRunning() throws(ForkingError) {
        guard !isRunning else { throw .invalid("this server is serving: a hook can only ask it to stop()") }
    }

    /// The loop begins, to serve or only to stop.
    mutating func run() { isRunning = true }

    /// The loop has ended.
    mutating func pause() { isRunning = false }

    // MARK: Upgrades

    /// The server serves.
    mutating func becomeReady(hasPredecessor: Bool) {
        guard standing == .starting else { return }
        standing = hasPredecessor ? .unconfirmed : .main
    }

    /// The predecessor has told the manager, or has ended. Returns false if the server did not wait for that.
    mutating func confirm() -> Bool {
        guard standing == .unconfirmed else { return false }
        standing = .main
        return true
    }

    /// Whether an upgrade may begin now. A successor that was started while this program is unconfirmed would be
    /// reported as this program's failure, and would serve beside this program's predecessor.
    var canBeReplaced: Bool { standing == .main }

    mutating func handOver() {
        precondition(standing == .main, "a program that is not the main one hands over")
        standing = .replaced
    }

    // MARK: Stopping

    /// When to call `fireTimers` at the latest.
    var deadline: Instant? {
        if case .stopping(_, let until) = state { until } else { nil }
    }

    /// The step that follows on a further signal, or when a deadline has passed.
    var nextStep: StopStep {
        switch state {
        case .serving: .drain
        case .stopping(.drain, _): .terminate
        case .stopping, .stopped: .kill
        }
    }

    /// Requests a step of stopping. Returns nil if the server has reached that step or a harder one: a stop is never
    /// undone.
    mutating func stop(_ step: StopStep, at now: Instant) -> Stop? {
        var actions: Actions = .stopAccepting
        switch state {
        case .serving: actions.insert(.announceEnd)
        case .stopping(let reached, _): guard step > reached else { return nil }
        case .stopped: return nil
        }
        if standing != .replaced { actions.insert(.abandonSuccessor) }
        guard waitsForChildren else {
            state = .stopped
            return Stop(step: step, actions: actions, rest: nil)
        }
        state = .stopping(step, until: now + timeout(of: step))
        switch step {
        case .drain:
            // After an upgrade, the clients in the queues are the successor's.
            if standing != .replaced, drainTimeout > .zero { actions.insert(.acceptWaiting) }
            return Stop(step: step, actions: actions, rest: drainTimeout + killTimeout)
        case .terminate: actions.insert(.terminateChildren)
        case .kill: actions.insert(.killChildren)
        }
        return Stop(step: step, actions: actions, rest: timeout(of: step))
    }

    /// The actions of a step are done, which may have taken a while: its timeout begins now.
    mutating func begin(_ step: StopStep, at now: Instant) {
        guard case .stopping(step, _) = state else { return }
        state = .stopping(step, until: now + timeout(of: step))
    }

    private func timeout(of step: StopStep) -> Duration {
        switch step {
        case .drain: drainTimeout
        case .terminate: killTimeout
        case .kill: Self.patienceWithKernel
        }
    }

    /// - Parameter isEmpty: whether there is no child, no client that still needs one, and nothing left to report.
    mutating func fireTimers(_ now: Instant, isEmpty: Bool) -> Due? {
        guard case .stopping(let step, let deadline) = state else { return nil }
        if isEmpty {
            state = .stopped
        } else if deadline <= now {
            if step < .kill { return stop(nextStep, at: now).map(Due.stop) }
            state = .stopped
            return .abandonChildren
        }
        return nil
    }

    /// The loop has failed.
    mutating func fail() { state = .stopped }
}
