// SPDX-License-Identifier: Apache-2.0

/// Decides about the workers of a pool. It gets snapshots of them and returns actions, which the parent carries out. The
/// pool's parent calls it, on its one thread, and no other process has it.
///
/// It compares the pool with what it should be, whatever has happened: it forks a worker if one is missing, and drains
/// one if there is one too many. A worker that must be replaced gets a pending drain reason, and one more worker is
/// wanted. So another is forked, and once that one is ready, the first is one too many, and drains. This applies to a
/// worker that is too old or too large, and to all workers on SIGHUP (see `replaceAll`).
struct PoolPolicy {
    struct Rules {
        /// From the fork until a worker is ready.
        var startTimeout: Duration
        var requestTimeout: Duration?
        var heartbeatTimeout: Duration?
        /// How long a worker that was taken out of service while the server serves may continue with its requests.
        var drainTimeout: Duration
        /// Whether that holds even for a request whose own timeout would allow it more time.
        var isDrainTimeoutFirm: Bool
        var killTimeout: Duration
        var maxReplacedAtOnce: Int
        /// The pool gives up after this many failures in a row.
        var maxFailures: Int?
        /// Whether to measure the workers' memory now and then.
        var limitsMemory: Bool
    }

    enum Action {
        case tell(PreforkServer.Event)
        case fork
        case drain(ProcessID)
        /// It was asked to drain, and takes too long.
        case terminate(ProcessID)
        case abort(ProcessID)
        case kill(ProcessID)
        /// Its memory is to be measured: see `noteTooLarge`.
        case weigh(ProcessID)
        /// All workers are ready for the first time.
        case noteServing
        /// The replacement of all workers has ended, with or without success.
        case tellReloaded
        case giveUp(ForkingError)
    }

    private(set) var workers: [PoolWorker] = []
    /// SIGTTIN and SIGTTOU change it.
    var size: PoolSize
    /// Whether all workers that were there at SIGHUP are being replaced.
    private(set) var isReplacingAll = false
    /// When to call `reconcile` at the latest.
    private(set) var nextLook: Instant?

    let rules: Rules
    private var backoff = Backoff()
    /// When the last failure occurred that `backoff` counts.
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

    /// Whether no worker may be forked for a while, because others have failed.
    var isPausing: Bool { backoff.until != nil }

    /// The server stops: all workers drain, and are not supervised any more.
    mutating func stop() -> [Action] {
        nextLook = nil
        return workers.map { .drain($0.pid) }
    }

    // MARK: A turn

    /// SIGHUP: replaces all workers. Each drains only once its replacement is ready.
    mutating func replaceAll() {
        isReplacingAll = true
        for index in workers.indices where workers[index].isActive { workers[index].pendingDrainReason = .replaced }
    }

    /// Compares the pool with what it should be, and returns what to do. Called in each turn while the server serves.
    ///
    /// - Parameters:
    ///   - snapshots: of each of `workers`, in their order.
    ///   - queued: how many clients wait in the kernel; called only if that matters.
    ///   - isStarting: whether the server has not reported yet that it serves.
    mutating func reconcile(
        _ snapshots: [WorkerSnapshot], queued: () -> Int, isStarting: Bool, at now: Instant
    ) -> [Action] {
        var actions: [Action] = []
        for index in workers.indices { workers[index].snapshot = snapshots[index] }
        for index in workers.indices {
            noteSnapshot(index, now, &actions)
            endIfLate(index, now, &actions)
        }
        autoscale(queued, now, &actions)
        // Those with a pending drain reason drain first: they have a replacement now.
        while readyCount > size.wanted {
            if let index = workers.firstIndex(where: { $0.isReady && $0.pendingDrainReason != nil }) {
                drain(index, because: workers[index].pendingDrainReason!, now, &actions)
            } else if let index = workers.lastIndex(where: \.isIdle) ?? workers.lastIndex(where: \.isReady) {
                drain(index, because: .excess, now, &actions)
            }
        }
        if isStarting, readyCount >= size.wanted { actions.append(.noteServing) }
        // Old workers may still drain, but only new ones accept clients.
        if isReplacingAll, !workers.contains(where: { $0.isActive && $0.pendingDrainReason == .replaced }) {
            isReplacingAll = false
            actions += [.tell(.replaced), .tellReloaded]
        }
        backoff.fireTimers(now)
        if !isPausing { for _ in 0..<max(0, missing) { actions.append(.fork) } }
        weigh(now, &actions)
        noteNextLook(now)
        return actions
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

    /// Ends a worker that is not ready in time, is stuck, or takes too long to drain or to end.
    private mutating func endIfLate(_ index: Int, _ now: Instant, _ actions: inout [Action]) {
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

    /// Ends a worker whose drain timeout has passed, unless it serves a request whose own timeout allows more time: one
    /// that began before the drain timeout had passed.
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

    /// Follows the load, if the pool's size is not fixed.
    private mutating func autoscale(_ queued: () -> Int, _ now: Instant, _ actions: inout [Action]) {
        guard !size.isFixed, size.nextLook.map({ $0 <= now }) ?? true else { return }
        let before = size.wanted
        let wanted = size.look(idle: workers.count(where: \.isIdle), live: readyCount, queued: queued(), at: now)
        if wanted != before { actions.append(.tell(.resized(wanted))) }
    }

    private mutating func drain(
        _ index: Int, because reason: PreforkServer.DrainReason, _ now: Instant, _ actions: inout [Action]
    ) {
        workers[index].state = .draining(reason, since: now, until: now + rules.drainTimeout)
        let worker = workers[index]
        actions += [.drain(worker.pid), .tell(.draining(worker.pid, reason))]
        guard !worker.snapshot.isBusy, !worker.snapshot.hasConnection, worker.isFailedStart(reason, now) else { return }
        // Counted now and not at its end: before that, many others could be forked, and do the same.
        workers[index].hasFailed = true
        noteFailure(now, &actions)
    }

    // MARK: Forking

    /// How many workers to fork: those that are missing, and replacements for workers with a pending drain reason,
    /// `maxReplacedAtOnce` at a time.
    private var missing: Int {
        let active = workers.count(where: \.isActive)
        let toDrain = workers.count { $0.isActive && $0.pendingDrainReason != nil }
        let beingReplaced = workers.count(where: \.wasReplaced)
        return size.wanted + min(toDrain, max(0, rules.maxReplacedAtOnce - beingReplaced)) - active
    }

    /// The lowest number that no worker has.
    var nextNumber: Int {
        (0...workers.count).first { number in !workers.contains { $0.number == number } }!
    }

    /// - Parameter retiresAt: when the worker is too old.
    mutating func noteForked(
        _ pid: ProcessID, number: Int, retiresAt: Instant?, _ snapshot: WorkerSnapshot, at now: Instant
    ) {
        workers.append(
            PoolWorker(
                pid: pid, number: number, startedAt: now, isReplacement: isReplacingAll, retiresAt: retiresAt,
                state: .starting(until: now + rules.startTimeout), snapshot: snapshot))
        noteNextLook(now)
    }

    mutating func noteForkFailed(_ error: ForkingError, at now: Instant) -> [Action] {
        var actions: [Action] = [.tell(.forkFailed(error))]
        if isReplacingAll { stopReplacing(because: error.description, &actions) }
        backOff(now)
        noteNextLook(now)
        return actions
    }

    /// A new worker has failed, so the remaining old ones stay.
    private mutating func stopReplacing(because reason: String, _ actions: inout [Action]) {
        isReplacingAll = false
        for index in workers.indices where workers[index].isActive && workers[index].pendingDrainReason == .replaced {
            workers[index].pendingDrainReason = nil
        }
        actions += [.tell(.replacingFailed(reason)), .tellReloaded]
    }

    // MARK: Memory

    private mutating func weigh(_ now: Instant, _ actions: inout [Action]) {
        guard let next = nextMemoryCheck, next <= now else { return }
        nextMemoryCheck = nil
        for worker in workers where worker.isReady && worker.pendingDrainReason == nil {
            actions.append(.weigh(worker.pid))
        }
    }

    /// A worker uses too much memory, and needs a replacement.
    mutating func noteTooLarge(_ pid: ProcessID, at now: Instant) {
        for index in workers.indices where workers[index].pid == pid { workers[index].pendingDrainReason = .memory }
        nextLook = now
    }

    // MARK: Time

    private mutating func noteNextLook(_ now: Instant) {
        if rules.limitsMemory, nextMemoryCheck == nil { nextMemoryCheck = now + Self.timeBetweenMemoryChecks }
        var next = nextMemoryCheck
        if !size.isFixed { next = earlier(next, size.nextLook) }
        if missing > 0 { next = earlier(next, backoff.until) }
        for worker in workers {
            // A request that begins right after a check is seen at the next one, which is early enough if it comes
            // within the request's timeout.
            let idle = worker.isReady && worker.snapshot.oldest == nil ? rules.requestTimeout.map { now + $0 } : nil
            let retires = worker.isActive && worker.pendingDrainReason == nil ? worker.retiresAt : nil
            next = earlier(next, earlier(earlier(worker.deadline, stuckUntil(worker)), earlier(idle, retires)))
        }
        nextLook = next
    }
}

// MARK: - Ends and failures

extension PoolPolicy {
    /// A worker was reaped.
    ///
    /// - Parameters:
    ///   - snapshots: of each of `workers`, in their order, including the last one of the ended worker.
    ///   - isServing: whether the server has not been stopped.
    /// - Returns: nil if it is not one of the pool's.
    mutating func noteEnd(
        of exit: ChildExit, _ snapshots: [WorkerSnapshot], isServing: Bool, at now: Instant
    ) -> [Action]? {
        guard let index = workers.firstIndex(where: { $0.pid == exit.pid }) else { return nil }
        if isServing { nextLook = now }  // a replacement may be needed
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

    /// Removes a worker that has ended and cannot be reaped. It does not serve any more, and is replaced.
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

    /// A worker that has proved itself ends the row of failures that came before its fork.
    private mutating func noteSuccess(_ worker: PoolWorker, _ now: Instant) {
        if worker.startedAt > lastFailure, worker.hasProved(now) { backoff.noteSuccess() }
    }

    /// A worker that failed at its start delays the next fork. It does not affect the workers that serve.
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
    /// Since when a worker has shown no progress: its oldest request, or its last heartbeat, as far as the rules limit
    /// them.
    func stuckSince(_ worker: PoolWorker) -> Instant? {
        let busy = rules.requestTimeout != nil ? worker.snapshot.oldest : nil
        return earlier(busy, heartbeatTimeout(of: worker) != nil ? worker.snapshot.beat : nil)
    }

    /// When a worker counts as stuck, if it makes no progress until then.
    func stuckUntil(_ worker: PoolWorker) -> Instant? {
        guard worker.isReady || worker.isDraining else { return nil }
        let busy = worker.snapshot.oldest.flatMap { start in rules.requestTimeout.map { start + $0 } }
        return earlier(busy, heartbeatTimeout(of: worker).map { worker.snapshot.beat + $0 })
    }

    /// A worker that drains may have nothing left that sends heartbeats.
    private func heartbeatTimeout(of worker: PoolWorker) -> Duration? {
        worker.isDraining ? nil : rules.heartbeatTimeout
    }

    /// What a worker does, and since when: as it reports itself, unless the pool knows better.
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
