// SPDX-License-Identifier: Apache-2.0

import Forking
import ForkingAsync
import ForkingCodable
import Foundation
import HostSupport
import Synchronization

// MARK: The child

func addIsolates(_ handlers: inout Zygote.Handlers) {
    handlers.isolate("count") { arguments in
        var count = arguments.bytes.first ?? 0
        return { request in
            if request.bytes == [1] { while true { pause() } }
            count &+= 1
            return Zygote.Reply([count])
        }
    }
    handlers.isolate("sum", Int.self, [Int].self) { start in
        var sum = start
        return { numbers in
            sum += numbers.reduce(0, +)
            return sum
        }
    }
    handlers.isolate("crowd", maxConcurrentCalls: 64) { arguments async throws in
        if arguments.bytes == [255] { throw Failed("no crowd") }
        let crowd = Crowd()
        return { request in Zygote.Reply(try await crowd.answer(request.bytes)) }
    }
}

private enum Order: UInt8 {
    /// Waits until so many are there as the next byte says.
    case meet
    /// Sleeps until its task is cancelled.
    case sleep
    /// Sleeps, whatever happens.
    case sleepOn
    /// Sleeps until its task is cancelled, and a little longer.
    case sleepALittle
    /// How many tasks were cancelled.
    case cancelled
    case trap
    case echo
}

private actor Crowd {
    private var arrived = 0
    private var cancelled: UInt8 = 0

    func answer(_ bytes: [UInt8]) async throws -> [UInt8] {
        switch Order(rawValue: bytes[0])! {
        case .meet:
            arrived += 1
            while arrived < Int(bytes[1]) { try await Task.sleep(for: .milliseconds(1)) }
            return [UInt8(arrived)]
        case .sleep:
            do { try await Task.sleep(for: .seconds(600)) } catch {
                cancelled += 1
                throw error
            }
            return []
        case .sleepALittle:
            try? await Task.sleep(for: .seconds(600))
            await Task.detached { try? await Task.sleep(for: .milliseconds(20)) }.value
            return []
        case .sleepOn:
            while true { try? await Task.sleep(for: .milliseconds(10)) }
        case .cancelled: return [cancelled]
        case .trap:
            dup2(open("/dev/null", O_WRONLY), 2)
            return [bytes[bytes.count]]
        case .echo: return bytes
        }
    }
}

// MARK: The host

private func restarting() -> Zygote.Isolate.Configuration {
    var configuration = Zygote.Isolate.Configuration()
    configuration.restart = .always
    return configuration
}

/// One call at a time, awaited.
@Sendable func orderedCalls(_: Int) async throws {
    let isolate = try await zygote.isolate("count", [10], configuration: restarting())
    for count in 11...110 as ClosedRange<UInt8> {
        let reply = try await isolate.run()
        try expect(reply.bytes == [count], "\(reply.bytes), not \(count)")
    }
    let all = try await withThrowingTaskGroup(of: UInt8.self) { group in
        for _ in 0..<100 { group.addTask { try await isolate.run().bytes[0] } }
        return try await group.reduce(into: []) { $0.append($1) }
    }
    try expect(all.sorted() == Array(111...210), "\(all)")
    let late = try await failure { try await isolate.run([1], deadline: .milliseconds(30)) }
    try expect(late == .deadlineExceeded(.milliseconds(30)), "\(late)")
    let first = try await isolate.run()
    try expect(first.bytes == [11], "\(first.bytes)")
    let task = Task { try await isolate.run([1]) }
    while isolate.status.running == 0 { await Task.yield() }
    let waiting = Task { try await isolate.run() }
    let dropped = Task { try await isolate.run() }
    while isolate.status.waiting < 2 { await Task.yield() }
    dropped.cancel()
    let drop = try await failure { try await dropped.value }
    try expect(drop == .cancelled && isolate.status.running == 1, "\(drop)")
    task.cancel()
    let cancelled = try await failure { try await task.value }
    try expect(cancelled == .cancelled, "\(cancelled)")
    let next = try await waiting.value
    try expect(next.bytes == [11], "\(next.bytes)")
    // Threads that block and tasks may take turns.
    for count in stride(from: UInt8(12), to: 212, by: 2) {
        let reply = try await Task.detached { try blocking(isolate) }.value
        let other = try await isolate.run().bytes
        try expect(reply == [count] && other == [count + 1], "\(reply) \(other), not \(count)")
    }
    let status = await isolate.close()
    try expect(status == .exited(code: 0), "\(String(describing: status))")
    let over = try await failure { try await isolate.run() }
    try expect(over == .shutDown, "\(over)")
}

private func blocking(_ isolate: Zygote.Isolate) throws -> [UInt8] { try isolate.runAndWait().bytes }

@Sendable func valuesInIsolates(_: Int) async throws {
    let isolate = try await zygote.isolate("sum", arguments: 5)
    let sum = try await isolate.run([1, 2, 3], returning: Int.self)
    let other = try await isolate.run([4], returning: Int.self)
    try expect(sum == 11 && other == 15, "\(sum) \(other)")
    await isolate.close()
}

/// Several calls at a time.
@Sendable func concurrentCalls(_: Int) async throws {
    let isolate = try await zygote.isolate("crowd", configuration: restarting())
    let met = try await withThrowingTaskGroup(of: [UInt8].self) { group in
        for _ in 0..<50 { group.addTask { try await isolate.run([Order.meet.rawValue, 50]).bytes } }
        return try await group.reduce(into: []) { $0.append($1) }
    }
    try expect(met.count == 50, "\(met)")
    try await cancelInCrowd(isolate)
    try await replyAfterCancellation(isolate)
    // More, and longer ones, than the socket takes at once.
    let sizes = try await withThrowingTaskGroup(of: Int.self) { group in
        for number in 0..<500 {
            let request = [Order.echo.rawValue] + [UInt8](repeating: 7, count: number % 3 * 30_000)
            group.addTask { try await isolate.run(request) == request ? 1 : 0 }
        }
        return try await group.reduce(0, +)
    }
    try expect(sizes == 500, "\(sizes)")
    try expect(isolate.status.starts == 1, "\(isolate.status)")
    let sleeping = Task { try await isolate.run([Order.sleep.rawValue]) }
    while isolate.status.running == 0 { await Task.yield() }
    let trapped = try await failure { try await isolate.run([Order.trap.rawValue]) }
    let other = try await failure { try await sleeping.value }
    try expect(trapped == other && trapped.exitStatus?.isSuccess == false, "\(trapped) \(other)")
    try await outwaitCrowd(isolate)
    await isolate.close()
    let refused = try await failure { () async throws in
        _ = try await zygote.isolate("crowd", [255])
        return Zygote.Reply()
    }
    try expect(refused == .threw(type: "Failed", description: "no crowd"), "\(refused)")
}

/// Cancellation and deadlines reach the tasks in the child, and cost nobody else anything.
private func cancelInCrowd(_ isolate: Zygote.Isolate) async throws {
    let tasks = (0..<10).map { _ in Task { try await isolate.run([Order.sleep.rawValue]) } }
    while isolate.status.running < 10 { await Task.yield() }
    let late = try await failure { try await isolate.run([Order.sleep.rawValue], deadline: .milliseconds(30)) }
    try expect(late == .deadlineExceeded(.milliseconds(30)), "\(late)")
    tasks.forEach { $0.cancel() }
    for task in tasks {
        let error = try await failure { try await task.value }
        try expect(error == .cancelled, "\(error)")
    }
    while try await isolate.run([Order.cancelled.rawValue]).bytes != [11] {
        try await Task.sleep(for: .milliseconds(1))
    }
}

/// A reply to a call that was cancelled is heard, though another call was made and has ended meanwhile.
private func replyAfterCancellation(_ isolate: Zygote.Isolate) async throws {
    let starts = isolate.status.starts
    let late = Task { try await isolate.run([Order.sleepALittle.rawValue]) }
    while isolate.status.running == 0 { await Task.yield() }
    // After a reply that took long, so many callers do not look for theirs themselves.
    for _ in 0..<40 { _ = try await isolate.run([Order.echo.rawValue]) }
    late.cancel()
    let cancelled = try await failure { try await late.value }
    try expect(cancelled == .cancelled, "\(cancelled)")
    _ = try await isolate.run([Order.echo.rawValue])
    // Otherwise it would be killed by then.
    try await Task.sleep(for: .milliseconds(1200))
    _ = try await isolate.run([Order.echo.rawValue])
    try expect(isolate.status.starts == starts, "\(isolate.status)")
}

/// A child that does not react to a cancellation is killed.
private func outwaitCrowd(_ isolate: Zygote.Isolate) async throws {
    let starts = isolate.status.starts
    let deaf = Task { try await isolate.run([Order.sleepOn.rawValue]) }
    let other = Task { try await isolate.run([Order.sleep.rawValue]) }
    while isolate.status.running < 2 { await Task.yield() }
    deaf.cancel()
    let begun = seconds()
    let cancelled = try await failure { try await deaf.value }
    try expect(cancelled == .cancelled && seconds() - begun < 0.9, "\(cancelled)")
    let killed = try await failure { try await other.value }
    try expect(killed == .ended(.signaled(.kill, dumpedCore: false)), "\(killed)")
    _ = try await isolate.run([Order.cancelled.rawValue])
    try expect(isolate.status.starts > starts, "\(isolate.status)")
}

/// An isolate that waits for a slot can be given up, and who watches one learns of its end.
@Sendable func isolatesEnd(_: Int) async throws {
    var isolates: [Zygote.Isolate] = []
    while isolates.count < 16 { isolates.append(try await zygote.isolate("count")) }
    let task = Task { try await zygote.isolate("count") }
    while zygote.status.waiting == 0 { await Task.yield() }
    task.cancel()
    let result = await task.result
    if case .success = result { throw Failed("it has a slot") }
    while zygote.status.waiting > 0 { await Task.yield() }
    let late = try await failure { () async throws in
        _ = try await zygote.isolate("count", deadline: .milliseconds(20))
        return Zygote.Reply()
    }
    try expect(late == .deadlineExceeded(.milliseconds(20)), "\(late)")
    let watched = isolates.removeLast()
    let task2 = Task { try await watched.run([1]) }
    while watched.status.running == 0 { await Task.yield() }
    task2.cancel()
    let end = await withCheckedContinuation { continuation in watched.whenEnded { continuation.resume(returning: $0) } }
    try expect(end == .ended(.signaled(.kill, dumpedCore: false)), "\(String(describing: end))")
    for isolate in isolates { await isolate.close() }
    isolates = []
    try expect(zygote.status.isolates == 0, "\(zygote.status)")
}

extension Zygote.Reply {
    fileprivate static func == (reply: Zygote.Reply, bytes: [UInt8]) -> Bool { reply.bytes == bytes }
}

/// Prints the median of so many awaited calls, and how many there are a second.
@Sendable func isolateSpeed(_ count: Int) async throws {
    let isolate = try await zygote.isolate("count")
    let crowd = try await zygote.isolate("crowd")
    let request = [Order.echo.rawValue] + [UInt8](repeating: 7, count: 15)
    for (name, isolate) in [("in order", isolate), ("concurrent", crowd)] {
        var times: [Double] = []
        let begun = seconds()
        for _ in 0..<count {
            let start = seconds()
            _ = try await isolate.run(request)
            times.append(seconds() - start)
        }
        let rate = Double(count) / (seconds() - begun)
        times.sort()
        print(name, "p50", times[count / 2] * 1e6, "p99", times[count * 99 / 100] * 1e6, "calls/s", rate)
        let parallel = seconds()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<8 {
                group.addTask { for _ in 0..<count / 8 { _ = try await isolate.run(request) } }
            }
            try await group.waitForAll()
        }
        print(name, "8 tasks, calls/s", Double(count) / (seconds() - parallel))
    }
    await isolate.close()
    await crowd.close()
}
