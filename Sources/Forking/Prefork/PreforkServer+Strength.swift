// SPDX-License-Identifier: Apache-2.0

/// How many workers there are: one is forked where one lacks, or is to be replaced; one drains where there is one too many.
extension PreforkServer {
    /// Parent: brings the pool to what it should be, and says when to look again.
    func tend(_ now: Instant) {
        lookAtWorkers(now)
        if let next = nextMemoryLook, next <= now { weigh(now) }
        adapt(now)
        fill(now)
        thin(now)
        announce()
        noteNextLook(now)
    }

    /// Forks the workers that lack, and a successor for each that is to be replaced, so many at a time.
    private func fill(_ now: Instant) {
        backoff.keepTime(now)
        while backoff.until == nil, missing > 0 {
            do throws(ForkingError) {
                try forkWorker(now)
            } catch {
                hooks.observe(.forkFailed(error))
                if isReplacingAll { stopReplacing(because: error.description) }
                var generator = SystemRandomNumberGenerator()
                backoff.noteFailure(at: now, using: &generator)
                lastFailure = now
            }
        }
    }

    private var missing: Int {
        let active = workers.count(where: \.isActive)
        let leaving = workers.count { $0.isActive && $0.leaving != nil }
        let beingReplaced = workers.count(where: \.wasReplaced)
        return size.wanted + min(leaving, max(0, configuration.replacedAtOnce - beingReplaced)) - active
    }

    /// Has those drain that are more than wanted, of those that are ready: first the ones that have a successor now.
    private func thin(_ now: Instant) {
        while workers.count(where: \.isReady) > size.wanted {
            if let index = workers.firstIndex(where: { $0.isReady && $0.leaving != nil }) {
                drain(index, because: workers[index].leaving!, now)
            } else if let index = workers.lastIndex(where: \.isIdle) ?? workers.lastIndex(where: \.isReady) {
                drain(index, because: .excess, now)
            }
        }
    }

    /// Tells, once all are there; and when all were replaced.
    private func announce() {
        if !loop.hasServed, workers.count(where: \.isReady) >= size.wanted {
            hooks.observe(.serving(addresses))
            for shared in listeners { shared.listener.takeOver() }
            loop.noteServing()
        }
        // Those that drain may take their time; it is new ones that serve.
        if isReplacingAll, !workers.contains(where: { $0.isActive && $0.leaving == .replaced }) {
            isReplacingAll = false
            hooks.observe(.replaced)
            loop.tellManager("READY=1")
        }
    }

    /// Parent: a worker can shut down the sockets that all of them share. Those that can be are listened on again; a service
    /// that nobody can reach any more is none, and ends.
    func keepListening() {
        for shared in listeners {
            do throws(ForkingError) {
                if try shared.listener.listenAgain() { hooks.observe(.listeningAgain(shared.address)) }
            } catch {
                failure = error
                return advance(to: .drain)
            }
        }
    }

    // MARK: Replacing all of them

    /// SIGHUP: all workers are replaced, each drains only once its successor is ready.
    func replaceAll() {
        // Before anything can fail: with Type=notify-reload the manager waits for this, and for what ends it.
        loop.tellManager("RELOADING=1\nMONOTONIC_USEC=\(Instant.now.nanoseconds / 1000)")
        do {
            try hooks.prepare()
        } catch {
            hooks.observe(.replacingFailed("\(error)"))
            // One that is going on already will say so itself.
            if !isReplacingAll { loop.tellManager("READY=1") }
            return
        }
        hooks.observe(.replacing)
        isReplacingAll = true
        for index in workers.indices where workers[index].isActive { workers[index].leaving = .replaced }
    }

    /// A new worker has failed where the old ones serve: those that are left stay.
    func stopReplacing(because reason: String) {
        isReplacingAll = false
        for index in workers.indices where workers[index].isActive && workers[index].leaving == .replaced {
            workers[index].leaving = nil
        }
        hooks.observe(.replacingFailed(reason))
        loop.tellManager("READY=1")
    }

    // MARK: More and fewer

    /// SIGTTIN and SIGTTOU.
    func resize(_ change: (inout PoolSize) -> Void) {
        change(&size)
        hooks.observe(.resized(size.wanted))
    }

    /// Follows the load, where the pool may.
    private func adapt(_ now: Instant) {
        guard !size.isFixed, size.nextLook.map({ $0 <= now }) ?? true else { return }
        let before = size.wanted
        let wanted = size.look(
            idle: workers.count(where: \.isIdle), live: workers.count(where: \.isReady), queued: listeners.queued,
            at: now)
        if wanted != before { hooks.observe(.resized(wanted)) }
    }

    /// Has those replaced that have grown too large.
    private func weigh(_ now: Instant) {
        guard let limit = configuration.maxMemoryKiB else { return }
        for index in workers.indices where workers[index].isReady && workers[index].leaving == nil {
            if let size = WorkerMemory.proportionalSize(of: workers[index].pid), size > limit {
                workers[index].leaving = .memory
            }
        }
        nextMemoryLook = nil
    }

    // MARK: Time

    private static let memoryInterval = Duration.seconds(5)

    private func noteNextLook(_ now: Instant) {
        if configuration.maxMemoryKiB != nil, nextMemoryLook == nil { nextMemoryLook = now + Self.memoryInterval }
        var next = nextMemoryLook
        if !size.isFixed { next = earlier(next, size.nextLook) }
        if missing > 0 { next = earlier(next, backoff.until) }
        for worker in workers { next = earlier(next, nextLook(at: worker, now)) }
        nextLook = next
    }
}
