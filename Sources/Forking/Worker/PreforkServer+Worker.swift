// SPDX-License-Identifier: Apache-2.0
//
// Where a worker begins, after the fork. It may do whatever a process may: threads, tasks, event loops.

import CForkCore
import Glibc

/// What a worker is told, as it has nothing of its parent's stack.
final class WorkerStart {
    private let server: PreforkServer
    private let setup: WorkerSetup

    init(_ server: PreforkServer, _ setup: WorkerSetup) {
        self.server = server
        self.setup = setup
    }

    func run() -> Int32 { server.run(setup) }
}

extension PreforkServer {
    /// The body, its errors included, as an exit status.
    func run(_ setup: WorkerSetup) -> Int32 {
        do {
            let worker = try Worker(setup)
            if configuration.printsStuckBacktrace { forkcore_tell_where_on_abort() }
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
}
