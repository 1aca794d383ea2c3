// SPDX-License-Identifier: Apache-2.0

import CForkCore

extension ForkingServer: StatusSource {
    /// What the server and its children do now. Parent.
    public var status: ServerStatus { wholeStatus }

    var outline: ServerStatus {
        ServerStatus(
            shape: .forking, pid: forkcore_process(), addresses: addresses, age: loop.age,
            phase: loop.phase == .serving ? .serving : .stopping, limit: configuration.maxChildren)
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
                let since = child.deadline.map { $0 + (.zero - child.killAfter) }
                process.inState = since.map { max(.zero, now - $0) }
            } else if child.isLeftover {
                process.state = .left
            } else if spares.hasNoClient(child.pid) {
                process.state = .spare
            }
            body(process)
        }
    }
}
