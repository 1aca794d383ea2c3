// SPDX-License-Identifier: Apache-2.0

/// Decides about the calls of a host: which run, which wait, and whether there should be a zygote for them.
///
/// A call is appended and waits. It runs, in order, as soon as fewer than `maxRunning` calls run, and it ends by
/// `finish`. The calls of a zygote that was lost must still be finished, but do not count as running.
struct CallQueue<Call: Identifiable> {
    /// Whether further calls may come. Each phase leads to the next.
    enum Phase {
        case open
        /// No further calls. Those that exist continue.
        case draining
        /// There are neither calls nor a zygote, nor will there be.
        case over
    }

    /// The current zygote, and when it was started.
    enum Zygote: Equatable {
        case none
        /// One is about to be executed. No call runs before it is.
        case beginning
        case starting(since: Instant)
        case ready(since: Instant)
    }

    /// Where a call runs, or ran.
    struct Slot: Equatable {
        /// The number of its zygote.
        let generation: Int
        let since: Instant
    }

    /// A zygote has ended without having been told to.
    struct Loss: Equatable {
        /// How many zygotes in a row ended soon after their start, or before they were ready.
        let failures: Int
        /// The time until the next one may be started.
        let pause: Duration
    }

    private(set) var phase = Phase.open
    /// Whether it was ended by `kill()`, even with calls pending.
    private(set) var wasKilled = false
    private(set) var zygote = Zygote.none
    private(set) var generation = -1
    private(set) var waiting: [Call] = []
    private var running: [Call.ID: Slot] = [:]
    /// The calls of lost zygotes.
    private var orphaned: [Call.ID: Slot] = [:]

    private let maxRunning: Int
    private let maxWaiting: Int
    private var backoff = Backoff()
    /// Whether the last zygote ended early.
    private var hasEndedEarly = false
    private var random: any RandomNumberGenerator & Sendable

    /// A zygote that ends within this time has ended early.
    private static var early: Duration { .seconds(1) }

    init(
        maxRunning: Int, maxWaiting: Int, random: any RandomNumberGenerator & Sendable = SystemRandomNumberGenerator()
    ) {
        (self.maxRunning, self.maxWaiting, self.random) = (maxRunning, maxWaiting, random)
    }

    // MARK: Calls

    /// Whether fewer calls run and wait, taken together, than both limits allow. Computed without a sum, which could
    /// overflow.
    var hasRoom: Bool { waiting.count - maxWaiting < maxRunning - running.count }

    var runningCount: Int { running.count }

    /// Whether this call runs in the zygote that there is now.
    func isRunning(_ id: Call.ID) -> Bool { running[id] != nil }

    mutating func append(_ call: Call) { waiting.append(call) }

    /// The call to start now, if there is one.
    var next: Call? { running.count < maxRunning && zygote != .beginning ? waiting.first : nil }

    /// The next call was given to the zygote.
    mutating func startNext(at now: Instant) {
        let call = waiting.removeFirst()
        running[call.id] = Slot(generation: generation, since: now)
    }

    /// A call that was given to a child which had ended waits again, before all others.
    mutating func requeue(_ call: Call) {
        if running.removeValue(forKey: call.id) ?? orphaned.removeValue(forKey: call.id) != nil {
            waiting.insert(call, at: 0)
        }
    }

    /// Removes the next call, because its caller has gone.
    mutating func dropNext() { waiting.removeFirst() }

    /// Takes a call back. Returns whether it was still waiting.
    mutating func withdraw(_ id: Call.ID) -> Bool {
        guard let index = waiting.firstIndex(where: { $0.id == id }) else { return false }
        waiting.remove(at: index)
        return true
    }

    /// A call has ended. Returns where it ran; nil if it did not.
    mutating func finish(_ id: Call.ID) -> Slot? {
        if let slot = running.removeValue(forKey: id) ?? orphaned.removeValue(forKey: id) { return slot }
        _ = withdraw(id)
        return nil
    }

    /// No zygote will be started for the waiting calls. Removes and returns them.
    mutating func giveUp() -> [Call] {
        defer { waiting = [] }
        return waiting
    }

    // MARK: The zygote

    mutating func noteBeginning() {
        precondition(zygote == .none, "there is one zygote at a time")
        zygote = .beginning
    }

    mutating func noteStarted(at now: Instant) {
        precondition(zygote == .none || zygote == .beginning, "there is one zygote at a time")
        generation += 1
        zygote = .starting(since: now)
    }

    mutating func noteReady() {
        if case .starting(let since) = zygote { zygote = .ready(since: since) }
    }

    /// No zygote could be started. The next attempt waits.
    mutating func noteStartFailed(at now: Instant) {
        zygote = .none
        backoff.noteFailure(at: now, using: &random)
    }

    /// The zygote has ended, or will end. Returns nil if there was none, or if it was told to end: then no other
    /// follows.
    mutating func noteLost(at now: Instant) -> Loss? {
        let (wasReady, since): (Bool, Instant)
        switch zygote {
        case .none, .beginning: return nil
        case .starting(let start): (wasReady, since) = (false, start)
        case .ready(let start): (wasReady, since) = (true, start)
        }
        zygote = .none
        orphaned.merge(running) { $1 }
        running = [:]
        guard phase == .open else { return nil }
        // A zygote that was ready is replaced at once, unless it and the one before it both ended early.
        let endsEarly = now - since < Self.early
        if wasReady, !(endsEarly && hasEndedEarly) {
            backoff.noteSuccess()
        } else {
            backoff.noteFailure(at: now, using: &random)
        }
        hasEndedEarly = endsEarly
        return Loss(failures: backoff.failures, pause: pause(at: now) ?? .zero)
    }

    /// How long it is until a zygote may be started; nil: now.
    mutating func pause(at now: Instant) -> Duration? {
        backoff.fireTimers(now)
        return backoff.until.map { $0 - now }
    }

    // MARK: The end

    /// Accepts no further calls. Returns whether that is new.
    mutating func drain() -> Bool {
        guard phase == .open else { return false }
        phase = .draining
        return true
    }

    /// Ends the queue, even with calls pending.
    mutating func kill() {
        guard phase != .over else { return }
        (phase, wasKilled) = (.draining, true)
    }

    /// Whether to tell the zygote that no further call will come.
    var isLastOrderDue: Bool { phase != .open && waiting.isEmpty }

    /// All zygotes were reaped.
    mutating func noteAllReaped() {
        if phase == .draining, zygote == .none { phase = .over }
    }
}
