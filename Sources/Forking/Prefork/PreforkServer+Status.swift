// SPDX-License-Identifier: Apache-2.0

import CForkCore

extension PreforkServer: StatusSource {
    /// What the server and its workers do now. Parent.
    public var status: ServerStatus { wholeStatus }

    var outline: ServerStatus {
        ServerStatus(
            shape: .prefork, pid: forkcore_process(), addresses: addresses, age: loop.age,
            phase: loop.phase == .serving ? .serving : .stopping, limit: size.maximum, wanted: size.wanted)
    }

    /// For the service manager: how it does, in words, and what is another whenever those are.
    var reportState: Int? {
        guard loop.phase == .serving else { return ~workers.count }
        return (readyCount << 11 | size.wanted) << 1 | (isReplacingAll ? 1 : 0)
    }

    var reportLine: String {
        guard loop.phase == .serving else { return "stopping: \(workers.count) workers left" }
        return "\(readyCount) of \(size.wanted) workers" + (isReplacingAll ? ", replacing all of them" : "")
    }

    private var readyCount: Int { workers.count(where: \.isReady) }

    func forEachProcess(_ body: (ServerStatus.Process) -> Void) {
        let now = Instant.now
        for var worker in workers {
            worker.reading = worker.seat.read(startedAt: worker.startedAt, now: now)
            let (state, since) = state(of: worker, now)
            body(
                ServerStatus.Process(
                    pid: worker.pid, number: worker.number, state: state, requests: worker.reading.requests,
                    inState: since.map { max(.zero, now - $0) }, age: now - worker.startedAt, peer: worker.reading.peer)
            )
        }
    }

    /// What a worker does, as it says itself and as the parent knows better, and since when.
    private func state(of worker: PoolWorker, _ now: Instant) -> (ServerStatus.Process.State, since: Instant?) {
        switch worker.state {
        case .starting where !worker.reading.isReady: return (.starting, worker.startedAt)
        case .draining(_, let since, _): return (.draining, since)
        case .ending(.some, _): return (.ending, nil)
        case .ending: return (.stuck, stuckSince(worker) ?? worker.reading.since)
        case .killed: return (.ending, nil)
        case .starting, .ready: break
        }
        if worker.reading.isDraining { return (.draining, nil) }
        if let until = stuckUntil(worker), until <= now { return (.stuck, stuckSince(worker)) }
        return (worker.reading.isBusy ? .busy : .idle, worker.reading.oldest ?? worker.reading.since)
    }
}
