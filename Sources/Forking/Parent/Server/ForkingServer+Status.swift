// SPDX-License-Identifier: Apache-2.0

import CForkCore

extension ForkingServer: StatusSource {
    /// The server's state and its children's. Parent.
    public var status: ServerStatus { wholeStatus }

    var outline: ServerStatus {
        ServerStatus(
            shape: .forking, pid: forkcore_process(), addresses: addresses, age: loop.age,
            phase: loop.life.state == .serving ? .serving : .stopping, maxProcesses: configuration.maxChildren,
            sources: sources?.worst(20, at: .now) ?? [])
    }

    /// A number that changes whenever `reportLine`, for the service manager, changes. Nil while clients wait: their
    /// number can change without another event.
    var reportState: Int? {
        loop.life.state != .serving ? ~children.count : children.isFull || isShort ? nil : children.count
    }

    var reportLine: String {
        guard loop.life.state == .serving else { return "stopping: \(children.count) clients left" }
        let waiting = reportState == nil ? listeners.queued + held.count + (heldDatagram == nil ? 0 : 1) : 0
        return "\(children.count) of \(configuration.maxChildren) clients" + (waiting > 0 ? ", \(waiting) wait" : "")
    }

    func forEachProcess(_ body: (ServerStatus.Process) -> Void) {
        children.adopt()
        let now = Instant.now
        children.forEachChild { _, child in
            let age = now - child.startedAt
            var process = ServerStatus.Process(
                pid: child.pid, state: .serving, inState: age, age: age, peer: child.peer)
            if child.hold == .told {
                process.state = .held
                process.inState = nil
            } else if child.stage != .running {
                process.state = .ending
                let since = child.deadline.map { $0 + (.zero - child.killTimeout) }
                process.inState = since.map { max(.zero, now - $0) }
            } else if child.isLeftover {
                process.state = .left
            }
            body(process)
        }
    }
}
