// SPDX-License-Identifier: Apache-2.0

/// Decides about the workers of a pool. It is told what is seen of them, and returns what to do; the parent does it.
///
/// The pool is brought to what it should be, whatever has happened: a worker is forked where one is missing, and one
/// drains where there is one too many. A worker that is to be replaced is *leaving*: it counts as one more that is
/// wanted, so that another is forked, and as soon as that one is ready, the one that leaves is the one too many. So it
/// is with a worker that is too old or too large, and with all of them on SIGHUP (see `replaceAll`).
struct PoolPolicy {
    struct Rules {
        /// From the fork until a worker is ready.
        var startTimeout: Duration
        var requestTimeout: Duration?
        var heartbeatTimeout: Duration?
        /// How long a worker that is taken out while the server serves may go on with what it has begun.
        var drainTimeout: Duration
        /// Whether that is all that it may have, be there a request whose own timeout leaves it more.
        var isDrainTimeoutFirm: Bool
        var killTimeout: Duration
        var maxReplacedAtOnce: Int
        /// After so many failures in a row the pool gives up.
        var maxFailures: Int?
        /// Whether workers are weighed now and then.
        var limitsMemory: Bool
    }

    enum Action {
        case tell(PreforkServer.Event)
        case fork
        case drain(ProcessID)
        /// It has been asked to drain, and takes too long.
        case terminate(ProcessID)
        case abort(ProcessID)
        case kill(ProcessID)
        /// All are ready for the first time.
        case noteServing
        /// That all are replaced is over, well or not.
        case tellReloaded
        case giveUp(ForkingError)
    }

    private(set) var workers: [PoolWorker] = []
    private(set) var size: PoolSize
    /// SIGHUP: each worker that was there then is to be replaced.
    private(set) var isReplacingAll = false
    /// When to call `tend` at the latest.
    private(set) var nextLook: Instant?

    let rules: Rules
    private var backoff = Backoff()
    /// When the newest of the failures came that `backoff` counts.
    private var lastFailure = Instant(nanoseconds: .min)
    private var hasGivenUp = false
    private var nextMemoryCheck: Instant?
    private var random: any RandomNumberGenerator & Sendable
    private static let timeBetweenMemoryChecks = Duration.seconds(5)

    init(
        _ rules: Rules, size: PoolSize,
        random: any RandomNumberGenerator & Sendable = SystemRandomNumberGenerator()
    ) {
        (self.rules, self.size, self.random) = (rules, size, random)
    }

    var readyCount: Int { workers.count(where: \.isReady) }

    /// Whether no worker is to be forked for a while, after failures.
    var isPausing: Bool { backoff.until != nil }

    /// The server stops: workers are looked at no more.
    mutating func stop() { nextLook = nil }

    // MARK: A turn

    /// Brings the pool to what it should be. Parent, in each turn while the server serves.
    ///
    /// - Parameters:
    ///   - snapshots: of each of `workers`, in their order.
    ///   - queued: how many clients wait in the kernel; it is asked for if that matters.
    ///   - isStarting: the server has not said yet that it serves.
    mutating func reconcile(
        _ snapshots: [WorkerSnapshot], queued: () -> Int, isStarting: Bool, at now: Instant
    ) -> [Action] {
        var actions: [Action] = []
        look(at: snapshots, now, &actions)
        autoscale(queued, now, &actions)
        drainSurplus(now, &actions)
        announce(isStarting, &actions)
        backoff.fireTimers(now)
        if !isPausing { for _ in 0..<max(0, missing) { actions.append(.fork) } }
        noteNextLook(now)
        return actions
    }

    private mutating func look(at snapshots: [WorkerSnapshot], _ now: Instant, _ actions: inout [Action]) {
        for index in workers.indices { workers[index].snapshot = snapshots[index] }
        for index in workers.indices {
            noteSnapshot(index, now, &actions)
            fireTimers(index, now, &actions)
        }
    }

    private mutating func noteSnapshot(_ index: Int, _ now: Instant, _ actions: inout [Action]) {
        let worker = workers[index]
        guard worker.isActive else { return }
        if !worker.isReady, worker.snapshot.isReady {
            workers[index].state = .ready
            actions.append(.tell(.ready(worker.pid, number: worker.number)))
        }
        noteSuccess(worker, now)
        if worker.snapshot.isDraining {
            drain(index, because: .signalled, now, &actions)
        } else if worker.pendingDrainReason == nil, worker.snapshot.wantsToRetire {
            workers[index].pendingDrainReason = .retired
        } else if worker.pendingDrainReason == nil, let time = worker.retiresAt, time <= now {
            workers[index].pendingDrainReason = .age
        }
    }

    private mutating func fireTimers(_ index: Int, _ now: Instant, _ actions: inout [Action]) {
        let worker = workers[index]
        switch worker.state {
        case .starting(let until) where until <= now:
            actions.append(.tell(.notReady(worker.pid)))
            kill(index, &actions)
        case .ending(_, let until) where until <= now:
            kill(index, &actions)
        case .ready, .draining:
            if let since = stuckSince(worker), let until = stuckUntil(worker), until <= now {
                actions.append(.tell(.stuck(worker.pid, for: now - since, peer: worker.snapshot.peer)))
                workers[index].state = .ending(nil, killAt: now + rules.killTimeout)
                actions.append(.abort(worker.pid))
            } else if case .draining(let reason, let since, let until) = worker.state, until <= now {
                endDrain(index, reason, since: since, now, &actions)
            }
        default: return
        }
    }

    /// Its time to drain is over, unless it serves a request whose own timeout leaves it more: one that came before
    /// that.
    private mutating func endDrain(
        _ index: Int, _ reason: PreforkServer.DrainReason, since: Instant, _ now: Instant, _ actions: inout [Action]
    ) {
        let worker = workers[index]
        let last = since + rules.drainTimeout + rules.drainTimeout
        if !rules.isDrainTimeoutFirm, let until = stuckUntil(worker), now < last {
            workers[index].state = .draining(reason, since: since, until: min(until, last))
            return
        }
        actions.append(.tell(.overdue(worker.pid, reason, after: now - since, peer: worker.snapshot.peer)))
        workers[index].state = .ending(reason, killAt: now + rules.killTimeout)
        actions.append(.terminate(worker.pid))
    }

    private mutating func kill(_ index: Int, _ actions: inout [Action]) {
        workers[index].state = .killed
        actions.append(.kill(workers[index].pid))
    }

    // MARK: How many

    /// Follows the load, where the pool may.
    private mutating func autoscale(_ queued: () -> Int, _ now: Instant, _ actions: inout [Action]) {
        guard !size.isFixed, size.nextLook.map({ $0 <= now }) ?? true else { return }
        let before = size.wanted
        let wanted = size.look(idle: workers.count(where: \.isIdle), live: readyCount, queued: queued(), at: now)
        if wanted != before { actions.append(.tell(.resized(wanted))) }
    }

    /// SIGTTIN and SIGTTOU.
    mutating func resize(_ change: (inout PoolSize) -> Void) -> [Action] {
        change(&size)
        return [.tell(.resized(size.wanted))]
    }

    /// How many workers are to be forked: some are missing, and of those that leave so many are replaced at a time.
    private var missing: Int {
        let active = workers.count(where: \.isActive)
        let toDrain = workers.count { $0.isActive && $0.pendingDrainReason != nil }
        let beingReplaced = workers.count(where: \.wasReplaced)
        return size.wanted + min(toDrain, max(0, rules.maxReplacedAtOnce - beingReplaced)) - active
    }

    /// Has those drain that are more than wanted, of those that are ready: first the ones that have a successor now.
    private mutating func drainSurplus(_ now: Instant, _ actions: inout [Action]) {
        while readyCount > size.wanted {
            if let index = workers.firstIndex(where: { $0.isReady && $0.pendingDrainReason != nil }) {
                drain(index, because: workers[index].pendingDrainReason!, now, &actions)
            } else if let index = workers.lastIndex(where: \.isIdle) ?? workers.lastIndex(where: \.isReady) {
                drain(index, because: .excess, now, &actions)
            }
        }
    }

    private mutating func drain(
        _ index: Int, because reason: PreforkServer.DrainReason, _ now: Instant, _ actions: inout [Action]
    ) {
        workers[index].state = .draining(reason, since: now, until: now + rules.drainTimeout)
        let worker = workers[index]
        actions += [.drain(worker.pid), .tell(.draining(worker.pid, reason))]
        guard !worker.snapshot.isBusy, !worker.snapshot.hasConnection, worker.isFailedStart(reason, now) else { return }
        // Not only at its end, which may take its time: so many others would be forked meanwhile, and do the same.
        workers[index].hasFailed = true
        noteFailure(now, &actions)
    }

    /// Tells, once all are there; and when all were replaced.
    private mutating func announce(_ isStarting: Bool, _ actions: inout [Action]) {
        if isStarting, readyCount >= size.wanted { actions.append(.noteServing) }
        // Those that drain may take their time; it is new ones that serve.
        if isReplacingAll, !workers.contains(where: { $0.isActive && $0.pendingDrainReason == .replaced }) {
            isReplacingAll = false
            actions += [.tell(.replaced), .tellReloaded]
        }
    }

    // MARK: Forking

    /// The lowest that no worker has.
    var nextNumber: Int {
        (0...workers.count).first { number in !workers.contains { $0.number == number } }!
    }

    /// - Parameter retiresAt: when it is too old.
    mutating func noteForked(
        _ pid: ProcessID, number: Int, retiresAt: Instant?, _ snapshot: WorkerSnapshot, at now: Instant
    ) -> [Action] {
        workers.append(
            PoolWorker(
                pid: pid, number: number, startedAt: now, isReplacement: isReplacingAll, retiresAt: retiresAt,
                state: .starting(until: now + rules.startTimeout), snapshot: snapshot))
        noteNextLook(now)
        return [.tell(.forked(pid, number: number))]
    }

    mutating func noteForkFailed(_ error: ForkingError, at now: Instant) -> [Action] {
        var actions: [Action] = [.tell(.forkFailed(error))]
        if isReplacingAll { stopReplacing(because: error.description, &actions) }
        backOff(now)
        noteNextLook(now)
        return actions
    }

    // MARK: Replacing all of them

    /// SIGHUP: all workers are replaced, each drains only once its successor is ready.
    mutating func replaceAll() -> [Action] {
        isReplacingAll = true
        for index in workers.indices where workers[index].isActive { workers[index].pendingDrainReason = .replaced }
        return [.tell(.replacing)]
    }

    /// A new worker has failed where the old ones serve: those that are left stay.
    private mutating func stopReplacing(because reason: String, _ actions: inout [Action]) {
        isReplacingAll = false
        for index in workers.indices where workers[index].isActive && workers[index].pendingDrainReason == .replaced {
            workers[index].pendingDrainReason = nil
        }
        actions += [.tell(.replacingFailed(reason)), .tellReloaded]
    }

    // MARK: Memory

    /// The workers to weigh now, if it is time for that.
    mutating func takeWeighing(_ now: Instant) -> [ProcessID] {
        guard let next = nextMemoryCheck, next <= now else { return [] }
        nextMemoryCheck = nil
        return workers.filter { $0.isReady && $0.pendingDrainReason == nil }.map(\.pid)
    }

    /// It has grown too large.
    mutating func noteTooLarge(_ pid: ProcessID) {
        for index in workers.indices where workers[index].pid == pid { workers[index].pendingDrainReason = .memory }
    }

    // MARK: Time

    private mutating func noteNextLook(_ now: Instant) {
        if rules.limitsMemory, nextMemoryCheck == nil { nextMemoryCheck = now + Self.timeBetweenMemoryChecks }
        var next = nextMemoryCheck
        if !size.isFixed { next = earlier(next, size.nextLook) }
        if missing > 0 { next = earlier(next, backoff.until) }
        for worker in workers { next = earlier(next, nextLook(at: worker, now)) }
        nextLook = next
    }

    /// When a worker is to be looked at again. A request that begins right after a look is seen at the next one, which
    /// is early enough if that comes no later than the request may take.
    private func nextLook(at worker: PoolWorker, _ now: Instant) -> Instant? {
        let idle = worker.isReady && worker.snapshot.oldest == nil ? rules.requestTimeout.map { now + $0 } : nil
        let retires = worker.isActive && worker.pendingDrainReason == nil ? worker.retiresAt : nil
        return earlier(earlier(worker.deadline, stuckUntil(worker)), earlier(idle, retires))
    }
}

// MARK: - Ends and failures

extension PoolPolicy {
    /// A worker was reaped.
    ///
    /// - Parameters:
    ///   - snapshots: of each of `workers`, in their order: that one's last, too.
    ///   - isServing: the server has not been stopped.
    mutating func noteEnd(
        of exit: ChildExit, _ snapshots: [WorkerSnapshot], isServing: Bool, at now: Instant
    ) -> [Action] {
        guard let index = workers.firstIndex(where: { $0.pid == exit.pid }) else { return [] }
        if isServing { nextLook = now }  // another may be wanted in its place
        for index in workers.indices { workers[index].snapshot = snapshots[index] }
        let worker = workers.remove(at: index)
        let end = isServing ? meaning(of: exit, worker, now) : .expected
        noteSuccess(worker, now)
        var actions: [Action] = [.tell(.ended(exit, end))]
        guard end == .failedStart else { return actions }
        if !worker.hasFailed { noteFailure(now, &actions) }
        if isReplacingAll, worker.isReplacement {
            stopReplacing(because: exit.told(of: "the new worker"), &actions)
        }
        return actions
    }

    /// One that has ended cannot be reaped: it serves no more, and is replaced.
    ///
    /// - Returns: whether it is one of the pool's.
    mutating func forget(_ pid: ProcessID, isServing: Bool, at now: Instant) -> Bool {
        guard let index = workers.firstIndex(where: { $0.pid == pid }) else { return false }
        workers.remove(at: index)
        if isServing { nextLook = now }
        return true
    }

    private func meaning(of exit: ChildExit, _ worker: PoolWorker, _ now: Instant) -> PreforkServer.WorkerEnd {
        if worker.hasFailed { return .failedStart }
        switch worker.state {
        case .draining(let reason, _, _): return worker.isFailedStart(reason, now) ? .failedStart : .expected
        case .ending(.some, _): return .expected
        default: break
        }
        if worker.snapshot.isDraining, worker.snapshot.isReady, exit.status.isSuccess { return .expected }
        guard worker.hasProved(now) else { return .failedStart }
        return exit.status.isSuccess ? .expected : .crashed
    }

    /// Failures before a worker was forked that proved good are no longer in a row with those to come.
    private mutating func noteSuccess(_ worker: PoolWorker, _ now: Instant) {
        if worker.startedAt > lastFailure, worker.hasProved(now) { backoff.noteSuccess() }
    }

    /// One that failed at its start makes the next one wait, but none of those that serve.
    private mutating func noteFailure(_ now: Instant, _ actions: inout [Action]) {
        guard !hasGivenUp else { return }
        for worker in workers { noteSuccess(worker, now) }
        backOff(now)
        if backoff.failures >= 5, let until = backoff.until {
            actions.append(.tell(.crashLoop(failures: backoff.failures, pause: until - now)))
        }
        if let limit = rules.maxFailures, backoff.failures >= limit {
            hasGivenUp = true
            actions.append(.giveUp(.crashLoop(failures: backoff.failures)))
        }
    }

    private mutating func backOff(_ now: Instant) {
        lastFailure = now
        backoff.noteFailure(at: now, using: &random)
    }
}

// MARK: - Stuck workers

extension PoolPolicy {
    /// Since when it has shown no sign of going on, of those that the rules ask for.
    func stuckSince(_ worker: PoolWorker) -> Instant? {
        let busy = rules.requestTimeout != nil ? worker.snapshot.oldest : nil
        return earlier(busy, heartbeatTimeout(of: worker) != nil ? worker.snapshot.beat : nil)
    }

    /// When a worker is taken for stuck, if it goes on as it does.
    func stuckUntil(_ worker: PoolWorker) -> Instant? {
        guard worker.isReady || worker.isDraining else { return nil }
        let busy = worker.snapshot.oldest.flatMap { start in rules.requestTimeout.map { start + $0 } }
        return earlier(busy, heartbeatTimeout(of: worker).map { worker.snapshot.beat + $0 })
    }

    /// One that drains may have nothing left that beats.
    private func heartbeatTimeout(of worker: PoolWorker) -> Duration? {
        worker.isDraining ? nil : rules.heartbeatTimeout
    }

    /// What a worker does, as it says itself and as the pool knows better, and since when.
    func state(of worker: PoolWorker, _ now: Instant) -> (ServerStatus.Process.State, since: Instant?) {
        switch worker.state {
        case .starting where !worker.snapshot.isReady: return (.starting, worker.startedAt)
        case .draining(_, let since, _): return (.draining, since)
        case .ending(.some, _): return (.ending, nil)
        case .ending: return (.stuck, stuckSince(worker) ?? worker.snapshot.since)
        case .killed: return (.ending, nil)
        case .starting, .ready: break
        }
        if worker.snapshot.isDraining { return (.draining, nil) }
        if let until = stuckUntil(worker), until <= now { return (.stuck, stuckSince(worker)) }
        return (worker.snapshot.isBusy ? .busy : .idle, worker.snapshot.oldest ?? worker.snapshot.since)
    }
}
