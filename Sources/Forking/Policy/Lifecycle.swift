// SPDX-License-Identifier: Apache-2.0

/// The life of a server, from its first client to its end. It alone changes its state; the server does what it returns.
///
/// There are two things to know of a server. Its `state`: it serves, stops, or has stopped.
///
///     serving ──▶ stopping: drain ──▶ terminate ──▶ kill ──▶ stopped
///
/// Each arrow is a stop that was asked for, which may skip steps but never goes back, or a deadline that has come; once
/// no child is left, the server has stopped. And its `standing` among the programs that serve on the same sockets one
/// after the other, as each upgrade starts the next:
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
        /// It serves. The program before it still has to tell the service manager, or to end.
        case unconfirmed
        case main
        /// The next program serves.
        case replaced
    }

    /// What a server does as it stops, in this order.
    struct Actions: OptionSet {
        let rawValue: UInt8
        /// Gives up the upgrade that it has begun.
        static let abandonSuccessor = Actions(rawValue: 1)
        /// Accepts those who have connected already: they are still served.
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
        /// How long it may take until all is over; nil: it is over.
        let rest: Duration?
    }

    /// What the passing of time leads to.
    enum Due: Equatable {
        case stop(Stop)
        /// The kernel does not end some of the children that were sent SIGKILL. The server has stopped without them.
        case abandonChildren
    }

    private(set) var state = State.serving
    private(set) var standing = Standing.starting
    /// Whether its loop turns. A server that is asked for single clients serves between two calls, too, but does not
    /// run.
    private(set) var isRunning = false

    private let drainTimeout: Duration
    private let killTimeout: Duration
    private let waitsForChildren: Bool

    /// A process that was sent SIGKILL ends at once, unless it is stuck in the kernel.
    static let patienceWithKernel = Duration.seconds(5)

    /// - Parameters:
    ///   - drainTimeout: from the step drain to terminate.
    ///   - killTimeout: from terminate to kill.
    ///   - waitsForChildren: if false, the first step of stopping is the last: whatever children there are go on.
    init(drainTimeout: Duration, killTimeout: Duration, waitsForChildren: Bool = true) {
        self.drainTimeout = drainTimeout
        self.killTimeout = killTimeout
        self.waitsForChildren = waitsForChildren
    }

    // MARK: The loop

    /// Whether the loop can begin to turn.
    ///
    /// - Throws: `ForkingError.Code.invalid` if it turns already, as this is called from a hook; or if the server was
    ///   stopped.
    func requireRunnable() throws(ForkingError) {
        try requireNotRunning()
        guard state == .serving else { throw .invalid("this server was stopped: make a new one") }
    }

    func requireNotRunning() throws(ForkingError) {
        guard !isRunning else { throw .invalid("this server is serving: a hook can only ask it to stop()") }
    }

    /// The loop begins to turn, be it only to end what is there.
    mutating func run() { isRunning = true }

    /// The loop turns no more.
    mutating func pause() { isRunning = false }

    // MARK: Upgrades

    /// All is there that clients need.
    mutating func becomeReady(hasPredecessor: Bool) {
        guard standing == .starting else { return }
        standing = hasPredecessor ? .unconfirmed : .main
    }

    /// The program before has told the manager, or has ended. Returns false if nobody waited for that.
    mutating func confirm() -> Bool {
        guard standing == .unconfirmed else { return false }
        standing = .main
        return true
    }

    /// Whether another program may take its place now. One that begins while this one is not confirmed would be told of
    /// as this one's failure, and serve beside the program before it.
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

    /// What a further signal, or a deadline that has come, leads to.
    var nextStep: StopStep {
        switch state {
        case .serving: .drain
        case .stopping(.drain, _): .terminate
        case .stopping, .stopped: .kill
        }
    }

    /// It is asked to stop. Nil if it has reached that step, or a harder one: a stop is never taken back.
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
            // Those who wait at the sockets of a program that was replaced are its successor's.
            if standing != .replaced, drainTimeout > .zero { actions.insert(.acceptWaiting) }
            return Stop(step: step, actions: actions, rest: drainTimeout + killTimeout)
        case .terminate: actions.insert(.terminateChildren)
        case .kill: actions.insert(.killChildren)
        }
        return Stop(step: step, actions: actions, rest: timeout(of: step))
    }

    /// What a step asks for has been done, which may have taken a while: its time begins now.
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

    /// - Parameter isEmpty: there is no child, nobody who still is to have one, and nothing left to tell.
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

    /// The loop cannot go on.
    mutating func fail() { state = .stopped }
}
