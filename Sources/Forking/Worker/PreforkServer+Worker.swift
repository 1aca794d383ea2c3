// SPDX-License-Identifier: Apache-2.0
//
// The start of a worker, after the fork. It may do whatever a process may: start threads, tasks, event loops.

import CForkCore
import Glibc

/// What a worker needs to start: it has no access to its parent's stack.
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
    /// Runs the body and prints its error. Returns the exit status.
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
