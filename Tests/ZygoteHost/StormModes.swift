// SPDX-License-Identifier: Apache-2.0

import Forking
import ForkingAsync
import ForkingCodable
import Foundation
import HostSupport

/// Calls, by warm children if the zygote has some.
@Sendable func storm(_ calls: Int) async throws {
    try await Storm(zygote, probe: probe) { lane in
        for number in lane.numbers {
            try await lane.attempt(number) { kind in try await call(kind, number) }
        }
    }.run(calls: calls)
}

@Sendable private func probe() async throws { _ = try await zygote.run("echo", deadline: .seconds(60)) }

private func call(_ kind: Storm.Kind, _ number: Int) async throws {
    switch kind {
    case .answer:
        let order = WorkOrder(kind: WorkOrder.Kind.allCases[number % 3], number: number)
        let answer = try await zygote.run("work", order, returning: String.self, deadline: .seconds(60))
        try expect(answer == order.result, "\(answer), not \(order.result)")
    case .trap: try await Storm.expectEnd(trapSignal) { try await zygote.run("trap") }
    case .kill: try await Storm.expectEnd(.kill) { try await zygote.run("killed") }
    case .deadline:
        let deadline = Duration.milliseconds(5)
        try await Storm.expectFailure(.deadlineExceeded(deadline)) { try await zygote.run("hang", deadline: deadline) }
    case .cancellation:
        let task = Task { try await zygote.run("spin") }
        for _ in 0..<number % 50 { await Task.yield() }
        task.cancel()
        try await Storm.expectFailure(.cancelled) { try await task.value }
    }
}

// MARK: Isolates

func addStormIsolate(_ handlers: inout Zygote.Handlers) {
    handlers.isolate("storm") { _ in
        var count = 0
        return { request in
            count += 1
            switch request.bytes.first.flatMap(IsolateOrder.init) {
            case .trap: return Zygote.Reply([request.bytes[request.bytes.count]])
            case .kill: kill(getpid(), SIGKILL)
            case .hang: while true { pause() }
            case nil: break
            }
            return Zygote.Reply(Array("\(count)".utf8))
        }
    }
}

private enum IsolateOrder: UInt8 { case trap = 1, kill, hang }

/// Each Task has an isolate, and another one when that has ended.
@Sendable func isolateStorm(_ calls: Int) async throws {
    try await Storm(zygote, probe: probe) { lane in
        var isolate: Zygote.Isolate?
        var count = 0
        for number in lane.numbers {
            if isolate == nil { count = 0 }
            try await lane.attempt(number) { kind in
                let used = isolate
                isolate = nil  // if this call throws
                let called = if let used { used } else { try await zygote.isolate("storm") }
                if try await call(called, kind, count + 1) { isolate = called }
            }
            count += 1
        }
        await isolate?.close()
    }.run(calls: calls)
}

/// Returns whether the isolate lives.
private func call(_ isolate: Zygote.Isolate, _ kind: Storm.Kind, _ count: Int) async throws -> Bool {
    switch kind {
    case .answer:
        let reply = try await isolate.run(deadline: .seconds(60))
        try expect(reply.bytes == Array("\(count)".utf8), "\(reply.bytes), not of \(count)")
        return true
    case .trap: try await Storm.expectEnd(trapSignal) { try await isolate.run([IsolateOrder.trap.rawValue]) }
    case .kill: try await Storm.expectEnd(.kill) { try await isolate.run([IsolateOrder.kill.rawValue]) }
    case .deadline:
        let deadline = Duration.milliseconds(5)
        try await Storm.expectFailure(.deadlineExceeded(deadline)) {
            try await isolate.run([IsolateOrder.hang.rawValue], deadline: deadline)
        }
    case .cancellation:
        let task = Task { try await isolate.run([IsolateOrder.hang.rawValue]) }
        for _ in 0..<50 { await Task.yield() }
        task.cancel()
        try await Storm.expectFailure(.cancelled) { try await task.value }
    }
    await isolate.close()
    return false
}
