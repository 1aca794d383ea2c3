// SPDX-License-Identifier: Apache-2.0

import CForkCore

extension PreforkServer: StatusSource {
    /// The server's state and its workers'. Parent.
    public var status: ServerStatus { wholeStatus }

    var outline: ServerStatus {
        ServerStatus(
            shape: .prefork, pid: forkcore_process(), addresses: addresses, age: loop.age,
            phase: loop.life.state == .serving ? .serving : .stopping, maxProcesses: policy.size.maximum,
            wanted: policy.size.wanted)
    }

    /// A number that changes whenever `reportLine`, for the service manager, changes.
    var reportState: Int? {
        guard loop.life.state == .serving else { return ~policy.workers.count }
        return (policy.readyCount << 11 | policy.size.wanted) << 1 | (policy.isReplacingAll ? 1 : 0)
    }

    var reportLine: String {
        guard loop.life.state == .serving else { return "stopping: \(policy.workers.count) workers left" }
        return "\(policy.readyCount) of \(policy.size.wanted) workers"
            + (policy.isReplacingAll ? ", replacing all of them" : "")
    }

    func forEachProcess(_ body: (ServerStatus.Process) -> Void) {
        let now = Instant.now
        for (var worker, snapshot) in zip(policy.workers, snapshots(now)) {
            worker.snapshot = snapshot
            let (state, since) = policy.state(of: worker, now)
            body(
                ServerStatus.Process(
                    pid: worker.pid, number: worker.number, state: state, requests: snapshot.requests,
                    inState: since.map { max(.zero, now - $0) }, age: now - worker.startedAt, peer: snapshot.peer)
            )
        }
    }
}
