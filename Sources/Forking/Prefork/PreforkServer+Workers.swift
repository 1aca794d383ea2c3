// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

extension PreforkServer {
    enum Service {
        case connections((inout Connection, Worker) throws -> Void)
        case body((Worker) throws -> Void)
    }

    // MARK: Forking them

    /// Parent: forks a worker.
    func forkWorker(_ now: Instant) throws(ForkingError) {
        let number = (0...workers.count).first { number in !workers.contains { $0.number == number } }!
        let seat = try Seat()
        let lifeline = try WorkersEnd("socketpair", forkcore_lifeline_open)
        let tie = try WorkersEnd("pipe2", forkcore_tie_open)
        let bell = try news.bell()
        defer { forkcore_close(bell) }
        let setup = WorkerSetup(
            number: number, listeners: listeners.map(\.descriptor), addresses: addresses, seat: seat,
            lifeline: lifeline.descriptor, tie: tie.descriptor, lastClients: lastClients.descriptor, news: bell,
            orphanLimit: (Instant(nanoseconds: 0) + replacementLimit + configuration.killAfter).nanoseconds,
            maxRequests: requestsUntilReplaced(), heartbeatLimit: configuration.heartbeatLimit)
        var options = configuration.childOptions
        options.heedless = heedless
        let pid = try children.fork(options: options, keeping: setup.listeners + [setup.lastClients]) { run(setup) }
        seat.withhold()
        workers.append(
            PoolWorker(
                pid: pid, number: number, startedAt: now, isReplacement: isReplacingAll,
                retiresAt: configuration.maxAge.map { now + scattered($0) }, seat: seat, lifeline: lifeline.parents,
                tie: tie.parents, state: .starting(until: now + configuration.spawnLimit),
                reading: seat.read(startedAt: now, now: now)))
        hooks.observe(.forked(pid, number: number))
    }

    /// Worker: the body, its errors included, as an exit status.
    private func run(_ setup: WorkerSetup) -> Int32 {
        do {
            let worker = try Worker(setup)
            if configuration.stuckBacktraces { forkcore_tell_where_on_abort() }
            switch service {
            case .connections(let handler): try worker.serve(configuration, hooks, handler)
            case .body(let body): try body(worker)
            }
            return 0
        } catch {
            Lines.tell("worker \(getpid()): \(error)")
            return 1
        }
    }

    private func requestsUntilReplaced() -> UInt64 {
        guard let limit = configuration.maxRequests else { return .max }
        let tenth = limit / 10
        return UInt64(limit - tenth) + UInt64.random(in: 0...2 * UInt64(tenth))
    }

    /// Give or take a tenth.
    private func scattered(_ time: Duration) -> Duration {
        let tenth = time.inNanoseconds / 10
        let (sum, overflow) = time.inNanoseconds.addingReportingOverflow(Int64.random(in: -tenth...tenth))
        return .nanoseconds(overflow ? .max : sum)
    }

    // MARK: Looking after them

    /// Parent: looks at each worker's line of the scoreboard, and does what time has come for.
    func lookAtWorkers(_ now: Instant) {
        for index in workers.indices {
            workers[index].reading = workers[index].seat.read(startedAt: workers[index].startedAt, now: now)
            noteReading(index, now)
            keepTime(index, now)
        }
    }

    private func noteReading(_ index: Int, _ now: Instant) {
        let worker = workers[index]
        guard worker.isActive else { return }
        if !worker.isReady, worker.reading.isReady {
            workers[index].state = .ready
            hooks.observe(.ready(worker.pid, number: worker.number))
        }
        noteSuccess(worker, worker.reading, now)
        if worker.reading.isDraining {
            drain(index, because: .signalled, now)
        } else if worker.leaving == nil, worker.reading.wantsToRetire {
            workers[index].leaving = .retired
        } else if worker.leaving == nil, let time = worker.retiresAt, time <= now {
            workers[index].leaving = .age
        }
    }

    private func keepTime(_ index: Int, _ now: Instant) {
        let worker = workers[index]
        switch worker.state {
        case .starting(let until) where until <= now:
            hooks.observe(.notReady(worker.pid))
            kill(index)
        case .ending(_, let until) where until <= now:
            kill(index)
        case .ready, .draining:
            if let since = stuckSince(worker), let until = stuckUntil(worker), until <= now {
                hooks.observe(.stuck(worker.pid, for: now - since, peer: worker.reading.peer))
                workers[index].state = .ending(nil, killAt: now + configuration.killAfter)
                children.signal(.abort, to: worker.pid)
            } else if case .draining(let reason, let since, let until) = worker.state, until <= now {
                endDrain(index, reason, since: since, now)
            }
        default: return
        }
    }

    /// Its time to drain is over, unless it serves a request whose own limit leaves it more: one that came before that.
    private func endDrain(_ index: Int, _ reason: DrainReason, since: Instant, _ now: Instant) {
        let worker = workers[index]
        let last = since + replacementLimit + replacementLimit
        if configuration.replacementDrain == nil, let until = stuckUntil(worker), now < last {
            workers[index].state = .draining(reason, since: since, until: min(until, last))
            return
        }
        hooks.observe(.overdue(worker.pid, reason, after: now - since, peer: worker.reading.peer))
        worker.seat.askToDrain(atOnce: true)
        workers[index].state = .ending(reason, killAt: now + configuration.killAfter)
        children.signal(.terminate, to: worker.pid, group: true)
        children.signal(.continue, to: worker.pid, group: true)  // one that was stopped would not see it
    }

    /// How long a worker that is taken out while the server serves may go on with what it has begun.
    private var replacementLimit: Duration {
        configuration.replacementDrain ?? max(configuration.requestLimit ?? .zero, configuration.drain)
    }

    private func kill(_ index: Int) {
        workers[index].state = .killed
        children.signal(.kill, to: workers[index].pid, group: true)
    }

    /// Since when it has shown no sign of going on, of those that the configuration asks for.
    func stuckSince(_ worker: PoolWorker) -> Instant? {
        let busy = configuration.requestLimit != nil ? worker.reading.oldest : nil
        return earlier(busy, heartbeatLimit(of: worker) != nil ? worker.reading.beat : nil)
    }

    /// When a worker is taken for stuck, if it goes on as it does.
    func stuckUntil(_ worker: PoolWorker) -> Instant? {
        guard worker.isReady || worker.isDraining else { return nil }
        let busy = worker.reading.oldest.flatMap { start in configuration.requestLimit.map { start + $0 } }
        return earlier(busy, heartbeatLimit(of: worker).map { worker.reading.beat + $0 })
    }

    /// One that drains may have nothing left that beats.
    private func heartbeatLimit(of worker: PoolWorker) -> Duration? {
        worker.isDraining ? nil : configuration.heartbeatLimit
    }

    /// When a worker is to be looked at again. A request that begins right after a look is seen at the next one, which is
    /// early enough if that comes no later than the request may take.
    func nextLook(at worker: PoolWorker, _ now: Instant) -> Instant? {
        let idle = worker.isReady && worker.reading.oldest == nil ? configuration.requestLimit.map { now + $0 } : nil
        let retires = worker.isActive && worker.leaving == nil ? worker.retiresAt : nil
        return earlier(earlier(worker.deadline, stuckUntil(worker)), earlier(idle, retires))
    }

    // MARK: Their end

    /// Parent: asks a worker to drain.
    func drain(_ index: Int, because reason: DrainReason, _ now: Instant) {
        workers[index].state = .draining(reason, since: now, until: now + replacementLimit)
        workers[index].askToDrain()
        hooks.observe(.draining(workers[index].pid, reason))
        let reading = workers[index].reading
        guard !reading.isBusy, !reading.hasConnection else { return }
        guard loop.phase == .serving, isFailedStart(workers[index], reading, reason, now) else { return }
        // Not only at its end, which may take its time: so many others would be forked meanwhile, and do the same.
        workers[index].hasFailed = true
        noteFailure(now)
    }

    /// Whether a worker drains of its own that has done nothing, and that another in its place would do the same at once.
    private func isFailedStart(
        _ worker: PoolWorker, _ reading: SeatReading, _ reason: DrainReason, _ now: Instant
    ) -> Bool {
        switch reason {
        case .signalled where !reading.isReady: true
        case .signalled, .retired: reading.requests == 0 && now - worker.startedAt < .seconds(1)
        default: false
        }
    }

    /// Parent: one was reaped.
    func noteEnd(of exit: ChildExit) {
        guard let index = workers.firstIndex(where: { $0.pid == exit.pid }) else {
            if held.remove(exit.pid) != nil { hooks.observe(.ended(exit, .expected)) }
            return
        }
        let now = Instant.now
        let worker = workers.remove(at: index)
        let reading = worker.seat.read(startedAt: worker.startedAt, now: now)
        let end = meaning(of: exit, worker, reading, now)
        noteSuccess(worker, reading, now)
        hooks.observe(.ended(exit, end))
        guard end == .failedStart else { return }
        if !worker.hasFailed { noteFailure(now) }
        if isReplacingAll, worker.isReplacement { stopReplacing(because: exit.told(of: "the new worker")) }
    }

    /// Parent: one cannot be ended, or has ended and cannot be reaped; that one serves no more, and is replaced.
    func note(_ trouble: ChildTrouble) {
        if case .held(let pid, _) = trouble, let index = workers.firstIndex(where: { $0.pid == pid }) {
            workers.remove(at: index)
            held.insert(pid)
        }
        hooks.observe(.trouble(trouble))
    }

    private func meaning(
        of exit: ChildExit, _ worker: PoolWorker, _ reading: SeatReading, _ now: Instant
    ) -> WorkerEnd {
        guard loop.phase == .serving else { return .expected }
        if worker.hasFailed { return .failedStart }
        switch worker.state {
        case .draining(let reason, _, _): return isFailedStart(worker, reading, reason, now) ? .failedStart : .expected
        case .ending(.some, _): return .expected
        default: break
        }
        if reading.isDraining, reading.isReady, exit.status.isSuccess { return .expected }
        guard hasProved(worker, reading, now) else { return .failedStart }
        return exit.status.isSuccess ? .expected : .crashed
    }

    /// Whether a worker can do what it is there for: it has had a request; or it is up for long and has no clients, or does
    /// not count them.
    private func hasProved(_ worker: PoolWorker, _ reading: SeatReading, _ now: Instant) -> Bool {
        reading.isReady && (reading.requests > 0 || now - worker.startedAt > .seconds(10))
    }

    /// Failures before a worker was forked that proved good are no longer in a row with those to come.
    private func noteSuccess(_ worker: PoolWorker, _ reading: SeatReading, _ now: Instant) {
        if worker.startedAt > lastFailure, hasProved(worker, reading, now) { backoff.noteSuccess() }
    }

    /// One that failed at its start makes the next one wait, but none of those that serve.
    private func noteFailure(_ now: Instant) {
        // The last look at the others may have been at the failure before this one.
        for worker in workers { noteSuccess(worker, worker.seat.read(startedAt: worker.startedAt, now: now), now) }
        lastFailure = now
        var generator = SystemRandomNumberGenerator()
        backoff.noteFailure(at: now, using: &generator)
        if backoff.failures >= 5, let until = backoff.until {
            hooks.observe(.crashLoop(failures: backoff.failures, pause: until - now))
        }
        if let limit = configuration.givesUpAfter, backoff.failures >= limit, loop.phase == .serving {
            failure = .crashLoop(failures: backoff.failures)
            advance(to: .drain)
        }
    }
}
