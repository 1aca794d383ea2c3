// SPDX-License-Identifier: Apache-2.0

/// Decides about one isolate: which calls wait, which are in flight, when its child is told to end, and whether another
/// follows it.
///
/// A call is appended and waits. `next` puts it in flight, in order, while a child runs and fewer than `window` calls
/// are in flight. So if the child ends, only calls in flight fail: the others wait here for the next child.
struct IsolateQueue {
    typealias ID = UInt64

    struct Rules {
        /// The maximum number of calls in flight. 1: the child serves them in order.
        var window = 1
        /// Whether a call can be taken back from the child. Otherwise the child is killed.
        var isCooperative = false
        /// The maximum number of calls that wait.
        var maxWaiting = 1000
        var restart = Restart.never
        var maxCalls: Int?
        var maxAge: Duration?
    }

    /// Whether another child follows one that has ended without being asked to.
    enum Restart: Equatable {
        case never, always
        case atMost(Int, within: Duration)
    }

    enum Phase: Equatable {
        /// A child is to be started now.
        case due
        /// A child is to be started then.
        case pausing(until: Instant)
        case starting
        case running(since: Instant)
        /// The child was told to end, or killed. `until`: when it is killed, or its zygote is taken for one that hangs.
        case ending(Reason, isKilled: Bool, until: Instant)
        /// There is no child, nor will there be.
        case over
    }

    /// Why a child is to end.
    enum Reason { case closed, recycled, withdrawn, released }

    /// How a child has ended, or why there is none.
    enum End: Equatable {
        /// It has ended by itself: crashed, or called exit.
        case byItself
        /// It could not serve: its handler threw before the first call, or a limit could not be applied.
        case failedStart
        /// It could not be forked for now. `pause`: how long no attempt is worthwhile, if that is known.
        case shortage(pause: Duration?)
        /// Its zygote was lost.
        case withZygote
    }

    /// What to do about the child now.
    enum Order: Equatable {
        /// Tell it that no call follows.
        case close
        case kill
        /// The zygote does not report the end of a killed child.
        case replaceZygote
    }

    /// What became of a call that nobody waits for any more.
    enum Withdrawal { case none, waited, inFlight }

    private(set) var phase = Phase.due
    /// Whether no further calls may come.
    private(set) var isClosing = false
    private(set) var waiting: [ID] = []
    private(set) var inFlight: [ID] = []
    /// Calls that ask for what the child may want some time. Nobody waits for their replies, so that they hold up neither
    /// the end of the child nor its replacement.
    private var standing: Set<ID> = []
    /// Calls that were taken back, and until when the child may take to end them.
    private var late: [ID: Instant] = [:]
    /// Children that have started.
    private(set) var starts = 0
    /// Calls given to the present child, or to the last one.
    private(set) var calls = 0

    private let rules: Rules
    private var isReleased = false
    private var closeBy: Instant?
    private var startBy: Instant?
    private var backoff = Backoff()
    private var hasEndedEarly = false
    /// The child's socket is full until then.
    private var blockedUntil: Instant?
    /// When it was restarted, as far as the limit counts that.
    private var restarts: [Instant] = []
    private var random: any RandomNumberGenerator & Sendable

    /// A call that is taken back, or a child that is told to end, may take this long. Then the child is killed.
    static var grace: Duration { .seconds(1) }
    /// A zygote that does not report the end of a killed child within this time hangs.
    static var confirmation: Duration { .seconds(5) }
    /// A child that ends by itself within this time has ended early. See `CallQueue`.
    private static var early: Duration { .seconds(1) }

    /// - Parameter startBy: when the first child must have started.
    init(
        _ rules: Rules, startBy: Instant? = nil,
        random: any RandomNumberGenerator & Sendable = SystemRandomNumberGenerator()
    ) {
        (self.rules, self.startBy, self.random) = (rules, startBy, random)
    }

    // MARK: Calls

    /// Whether fewer calls are in flight and wait, taken together, than both limits allow. See `CallQueue`.
    var hasRoom: Bool { waiting.count - rules.maxWaiting < rules.window - inFlight.count }
    var isOver: Bool { phase == .over }

    mutating func append(_ id: ID, isStanding: Bool = false) {
        waiting.append(id)
        if isStanding { standing.insert(id) }
    }

    /// Whether the child serves no call that somebody waits for.
    private var isIdle: Bool { inFlight.allSatisfy(standing.contains) }
    private var isNobodyWaiting: Bool { waiting.allSatisfy(standing.contains) }

    /// The call to send to the child now, which is in flight from now on.
    mutating func next(at now: Instant) -> ID? {
        guard case .running = phase, inFlight.count < rules.window, !waiting.isEmpty, !isRecyclingDue(now) else {
            return nil
        }
        guard blockedUntil.map({ $0 <= now }) ?? true else { return nil }
        blockedUntil = nil
        let id = waiting.removeFirst()
        inFlight.append(id)
        calls += 1
        return id
    }

    /// A call could not be sent yet: it is the next again, from then on.
    mutating func requeue(_ id: ID, until: Instant) {
        blockedUntil = until
        guard let index = inFlight.firstIndex(of: id) else { return }
        inFlight.remove(at: index)
        waiting.insert(id, at: 0)
        calls -= 1
    }

    /// The child has replied. Returns whether this was a call of its own that it had not replied to.
    mutating func finish(_ id: ID) -> Bool {
        standing.remove(id)
        if let index = inFlight.firstIndex(of: id) {
            inFlight.remove(at: index)
            return true
        }
        return late.removeValue(forKey: id) != nil
    }

    /// Whether the child serves this call, and there is no other that somebody waits for.
    func isOnlyCall(_ id: ID) -> Bool {
        waiting.isEmpty && inFlight.contains(id) && inFlight.allSatisfy { $0 == id || standing.contains($0) }
    }

    /// Whether the child has calls to reply to, even if nobody waits for that.
    var awaitsReplies: Bool { !inFlight.isEmpty || !late.isEmpty }

    func isLate(_ id: ID) -> Bool { late[id] != nil }

    /// Nobody waits for a call any more. If it is in flight, the child is told, or killed if it cannot be: see `order`.
    mutating func withdraw(_ id: ID, at now: Instant) -> Withdrawal {
        standing.remove(id)
        if let index = waiting.firstIndex(of: id) {
            waiting.remove(at: index)
            return .waited
        }
        guard let index = inFlight.firstIndex(of: id) else { return .none }
        inFlight.remove(at: index)
        late[id] = rules.isCooperative ? now + Self.grace : now
        return .inFlight
    }

    // MARK: The child

    /// One is being started.
    mutating func noteStarting() { phase = .starting }

    /// The child has said that it has started.
    mutating func noteStarted(at now: Instant) {
        guard phase == .starting else { return }
        phase = .running(since: now)
        starts += 1
        calls = 0
        startBy = nil
    }

    /// Whether the last child was told to end, and why.
    var reason: Reason? { if case .ending(let reason, _, _) = phase { reason } else { nil } }

    var isKilled: Bool { if case .ending(_, true, _) = phase { true } else { false } }

    /// The child has ended, or could not be started. Returns how long it is until the next is started; nil if none will
    /// be.
    mutating func noteEnded(_ end: End, at now: Instant) -> Duration? {
        let last = phase
        standing.subtract(inFlight)
        inFlight = []
        late = [:]
        guard last != .over, starts > 0, !isReleased, !(isClosing && isNobodyWaiting), last.reason != .closed,
            last.reason != .released, let pause = pause(after: end, last, now)
        else {
            phase = .over
            return nil
        }
        phase = pause > .zero ? .pausing(until: now + pause) : .due
        return pause
    }

    /// How long to wait before the next start; nil if there is to be none.
    private mutating func pause(after end: End, _ last: Phase, _ now: Instant) -> Duration? {
        if last.reason == .recycled {
            backoff.noteSuccess()
            return .zero
        }
        if case .shortage(let pause) = end { return pause ?? backedOff(now) }
        if end == .withZygote {
            // A child that was not there yet is no loss of state.
            return rules.restart == .never && last != .starting ? nil : .zero
        }
        switch rules.restart {
        case .never: return nil
        case .always: break
        case .atMost(let count, let time):
            restarts.removeAll { now - $0 >= time }
            guard restarts.count < count else { return nil }
            restarts.append(now)
        }
        // Ends that callers cause by deadlines are no more than the calls.
        if last.reason == .withdrawn { return .zero }
        var isEarly = true
        if case .running(let since) = last { isEarly = now - since < Self.early }
        defer { hasEndedEarly = isEarly }
        guard end == .failedStart || isEarly && hasEndedEarly else {
            backoff.noteSuccess()
            return .zero
        }
        return backedOff(now)
    }

    private mutating func backedOff(_ now: Instant) -> Duration {
        backoff.noteFailure(at: now, using: &random)
        return backoff.until.map { $0 - now } ?? .zero
    }

    private func isRecyclingDue(_ now: Instant) -> Bool {
        guard case .running(let since) = phase else { return false }
        if let most = rules.maxCalls, calls >= most { return true }
        return rules.maxAge.map { since + $0 <= now } ?? false
    }

    /// What is to be done about the child now. Each order is given once.
    mutating func order(at now: Instant) -> Order? {
        switch phase {
        case .running:
            if isReleased { return kill(.released, now) }
            if closeBy.map({ $0 <= now }) ?? false { return kill(.closed, now) }
            if late.values.contains(where: { $0 <= now }) { return kill(.withdrawn, now) }
            guard isIdle else { return nil }
            let isLast = isClosing && isNobodyWaiting
            guard isLast || isRecyclingDue(now) else { return nil }
            let until = min(now + Self.grace, isLast ? closeBy ?? now + Self.grace : now + Self.grace)
            phase = .ending(isLast ? .closed : .recycled, isKilled: false, until: until)
            return .close
        case .starting:
            let isOverdue = startBy.map { $0 <= now } ?? false || closeBy.map { $0 <= now } ?? false
            return isReleased || isOverdue ? kill(.released, now) : nil
        case .ending(let reason, let isKilled, let until):
            if isReleased, !isKilled { return kill(.released, now) }
            guard until <= now else { return nil }
            guard isKilled else { return kill(reason, now) }
            phase = .ending(reason, isKilled: true, until: now + Self.confirmation)
            return .replaceZygote
        case .pausing(let until):
            if until <= now { phase = .due }
            endIfIdle(now)
            return nil
        case .due:
            endIfIdle(now)
            return nil
        case .over: return nil
        }
    }

    private mutating func kill(_ reason: Reason, _ now: Instant) -> Order {
        phase = .ending(reason, isKilled: true, until: now + Self.confirmation)
        return .kill
    }

    private mutating func endIfIdle(_ now: Instant) {
        if isReleased || isClosing && (isNobodyWaiting || closeBy.map { $0 <= now } ?? false) { phase = .over }
    }

    /// When to call `order` again, if nothing else happens before.
    var due: Instant? {
        switch phase {
        case .due, .over: nil
        case .pausing(let until): earlier(until, closeBy)
        case .starting: earlier(startBy, closeBy)
        case .running(let since):
            earlier(
                earlier(earlier(late.values.min(), blockedUntil), closeBy),
                isIdle ? rules.maxAge.map { since + $0 } : nil)
        case .ending(_, _, let until): until
        }
    }

    // MARK: The end

    /// No further calls. Those that were begun are served, but the child is killed at `by`.
    mutating func close(by: Instant? = nil) {
        isClosing = true
        closeBy = earlier(closeBy, by)
    }

    /// Nobody will call any more.
    mutating func release() { (isClosing, isReleased) = (true, true) }

    /// There will be no child: there is no zygote any more. Effective if there is none now.
    mutating func giveUp() {
        switch phase {
        case .due, .pausing: phase = .over
        default: isClosing = true
        }
    }

    /// The calls that wait when it is over. Removes and returns them.
    mutating func takeWaiting() -> [ID] {
        defer { waiting = [] }
        standing.subtract(waiting)
        return waiting
    }
}

extension IsolateQueue.Phase {
    fileprivate var reason: IsolateQueue.Reason? {
        if case .ending(let reason, _, _) = self { reason } else { nil }
    }
}
