// SPDX-License-Identifier: Apache-2.0

import Forking
import ForkingDistributed
import Foundation
import HostSupport

/// Each Task has an actor, and another one when that has ended.
@Sendable func storm(_ calls: Int) async throws {
    try await Storm(zygote, probe: { try await system.terminate(try await system.create(Counter.self, 0)) }) { lane in
        var counter: Counter?
        var count = 0
        for number in lane.numbers {
            if counter == nil { count = 0 }
            count += 1
            try await lane.attempt(number) { kind in
                let used = counter
                counter = nil  // if this call throws
                let called = if let used { used } else { try await system.create(Counter.self, 0) }
                if try await call(called, kind, count) { counter = called }
            }
        }
        if let counter { try await system.terminate(counter) }
    }.run(calls: calls)
}

/// Returns whether the actor lives.
private func call(_ counter: Counter, _ kind: Storm.Kind, _ count: Int) async throws -> Bool {
    switch kind {
    case .answer:
        let value = try await counter.add(1)
        try expect(value == count, "\(value), not \(count)")
        return true
    case .trap: try await Storm.expectEnd(trapSignal) { _ = try await counter.trap([]) }
    case .kill: try await Storm.expectEnd(.kill) { try await counter.kill() }
    case .deadline:
        let deadline = Duration.milliseconds(5)
        try await Storm.expectFailure(.deadlineExceeded(deadline)) {
            try await IsolateSystem.withDeadline(deadline) { try await counter.sleep() }
        }
    case .cancellation:
        let task = Task { try await counter.sleep() }
        for _ in 0..<50 { await Task.yield() }
        task.cancel()
        try await Storm.expectFailure(.cancelled) { try await task.value }
    }
    try await system.terminate(counter)
    return false
}
