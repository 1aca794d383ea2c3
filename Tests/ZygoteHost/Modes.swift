// SPDX-License-Identifier: Apache-2.0

import Forking
import ForkingAsync
import ForkingCodable
import Foundation
import HostSupport
import Synchronization
import SystemPackage

@Sendable func asynchronousCalls(_: Int) async throws {
    let bytes = (0..<1_000_000).map { UInt8(truncatingIfNeeded: $0) }
    for count in [0, 1, 1_000_000] {
        let reply = try await zygote.run("echo", Array(bytes.prefix(count)))
        try expect(reply.bytes.elementsEqual(bytes.prefix(count)), "\(count) bytes did not come back")
    }
    let later = try await zygote.run("later", [7])
    try expect(later.bytes == [7], "an async handler answered \(later.bytes)")
    let nothing = try await failure { try await zygote.run("later") }
    try expect(nothing == .threw(type: "Failed", description: "nothing"), "\(nothing)")
    for kind in WorkOrder.Kind.allCases {
        let order = WorkOrder(kind: kind, number: 7)
        let answer = try await zygote.run("work", order, returning: String.self)
        try expect(answer == order.result, "\(answer), not \(order.result)")
    }
    let thrown = try await failure { try await zygote.run("fail", Array("as asked".utf8)) }
    try expect(thrown == .threw(type: "Failed", description: "as asked"), "\(thrown)")
    let late = try await failure { try await zygote.run("hang", deadline: .milliseconds(100)) }
    try expect(late == .deadlineExceeded(.milliseconds(100)), "\(late)")
    let task = Task { try await zygote.run("spin") }
    while zygote.status.running == 0 { await Task.yield() }
    task.cancel()
    let cancelled = try await failure { try await task.value }
    try expect(cancelled == .cancelled, "\(cancelled)")
}

/// All that Tasks can do, without a second thread where they need none, and within limits that leave no room for one.
@Sendable func onOwnThread(_: Int) async throws {
    for name in TaskWorks.alone.keys {
        for (memory, files) in [(nil, nil), (1 << 20, nil), (nil, 6)] as [(Int?, Int?)] {
            let threads = try await threads(of: name, memory: memory, files: files)
            try expect(threads == "1", "\(name): \(threads) threads")
        }
    }
    for name in TaskWorks.withThreads.keys {
        _ = try await threads(of: name, memory: 64 << 20)
    }
    let blocked = try await failure { try await zygote.run("blocked", deadline: .milliseconds(200)) }
    try expect(blocked == .deadlineExceeded(.milliseconds(200)), "\(blocked)")
    _ = try await zygote.run("unawaited", deadline: .seconds(60))
    try await serveLines()
}

/// How many the child had that did this work.
private func threads(of name: String, memory: Int? = nil, files: Int? = nil) async throws -> String {
    var limits = ResourceLimits()
    limits.maxMemoryBytes = memory
    limits.maxOpenFiles = files
    let reply = try await zygote.run(name, deadline: .seconds(60), limits: limits)
    return String(decoding: reply.bytes, as: UTF8.self)
}

/// An `async` handler serves a connection.
private func serveLines() async throws {
    let (ours, theirs) = try pair()
    let peer = try SocketAddress(parsing: "unix:/peer")
    let call = try zygote.handOff(
        "lines, awaited", Connection(theirs, peer: peer), Array("hello".utf8), deadline: .seconds(60))
    var connection = Connection(ours, peer: peer)
    for name in ["Ada", "Grace"] {
        try connection.write("\(name)\n")
        let line = try connection.readLine() ?? []
        try expect(line == Array("hello \(name)\n".utf8), "\(line)")
    }
    connection.finishWriting()
    _ = try await call.reply()
}

private func pair() throws -> (FileDescriptor, FileDescriptor) {
    var both: [Int32] = [-1, -1]
    try expect(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &both) == 0, "no pair")
    return (FileDescriptor(rawValue: both[0]), FileDescriptor(rawValue: both[1]))
}

/// Calls of an `async` handler with four Tasks, from eight threads.
@Sendable func laterCalls(_ calls: Int) async throws {
    let shared = Shared()
    try await withThrowingTaskGroup(of: Void.self) { group in
        for thread in 0..<8 {
            group.addTask {
                try await onAThread {
                    for number in 0..<calls / 8 {
                        let begun = seconds()
                        let bytes = [UInt8(truncatingIfNeeded: number), UInt8(thread)]
                        let reply = try zygote.runAndWait("later", bytes, deadline: .seconds(60))
                        try expect(reply.bytes == bytes, "\(reply.bytes), not \(bytes)")
                        shared.slowest.withLock { $0 = max($0, seconds() - begun) }
                    }
                }
            }
        }
        try await group.waitForAll()
    }
    print("slowest \(shared.slowest.withLock { $0 }) s; \(zygote.status)")
}

/// Limits do not make Tasks slower.
@Sendable func limitedTasks(_ calls: Int) async throws {
    let free = try await faults { _ in }
    for _ in 0..<calls {
        for memory in [1 << 20, 64 << 20] {
            let least = try await faults { $0.maxMemoryBytes = memory }
            // Where no arena can be had, each block takes a page, or more: a thousand of them.
            try expect(least < free + 500, "\(least) page faults within its limit, \(free) without")
        }
        let few = try await faults { $0.maxOpenFiles = 6 }
        try expect(few < free + 500, "\(few) page faults with few descriptors, \(free) without")
    }
}

/// How many a child took that allocates in a task.
private func faults(_ change: (inout ResourceLimits) -> Void) async throws -> Int64 {
    var limits = ResourceLimits()
    change(&limits)
    let call = try zygote.begin("strings", deadline: .seconds(60), limits: limits)
    _ = try await call.reply()
    return reports.withLock { $0.removeLast().usage!.minorFaults }
}

/// More calls than there are places, awaited: those that wait have no descriptor to wait for.
@Sendable func manyAwaited(_ calls: Int) async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<calls {
            group.addTask {
                let reply = try await zygote.run("echo", [UInt8(truncatingIfNeeded: number)])
                try expect(reply.bytes == [UInt8(truncatingIfNeeded: number)], "another answer")
            }
        }
        var most = 0
        while zygote.status.waiting == 0 { await Task.yield() }
        while zygote.status.waiting > 0 {
            most = max(most, Holdings(getpid()).descriptors)
            await Task.yield()
        }
        try await group.waitForAll()
        try expect(most > 0 && most < 200, "the host had \(most) descriptors")
    }
}

/// Calls from eight threads of a host that does all that makes a fork of its own unsafe.
@Sendable func busyHost(_ calls: Int) async throws {
    let noise = Noise()
    noise.begin()
    defer { noise.end() }
    try await callFromEightThreads(calls)
}

/// The same in a host that does nothing else: what it has afterwards is what it had before.
@Sendable func calmHost(_ calls: Int) async throws {
    try await callFromEightThreads(calls)  // memory has its size after some
    let (warmBefore, before) = (zygote.status.warm, Holdings(getpid()))
    try await callFromEightThreads(calls)
    let (warmAfter, after) = (zygote.status.warm, Holdings(getpid()))
    print("host before \(before), \(warmBefore) warm, after \(after), \(warmAfter) warm")
    try expect(after.descriptors - warmAfter == before.descriptors - warmBefore, "descriptors of the host")
    try expect(after.residentKiB < before.residentKiB + 4096, "memory of the host")
}

private func callFromEightThreads(_ calls: Int) async throws {
    let shared = Shared()
    for number in 0..<30 { try await checkedCall(number) }
    let pid = zygote.pid!
    let before = try await atRest(pid)
    try await withThrowingTaskGroup(of: Void.self) { group in
        for thread in 0..<8 {
            group.addTask { try await onAThread { try callOften(calls / 8, from: thread * calls, shared) } }
        }
        try await group.waitForAll()
    }
    let after = try await atRest(pid, like: before)
    print("slowest \(shared.slowest.withLock { $0 }) s; zygote before \(before), after \(after); \(zygote.status)")
    try expect(zygote.pid == pid, "the zygote was replaced")
    try expect(after.residentKiB < before.residentKiB + 1024, "memory of the zygote")
}

/// What the zygote holds when only warm children are left, of which each has a descriptor; what it had for another it
/// closes right after that was reaped.
private func atRest(_ pid: Int32, like before: Holdings? = nil) async throws -> Holdings {
    let begun = seconds()
    while true {
        let holdings = Holdings(pid)
        if holdings.children == zygote.status.warm,
            holdings.descriptors - holdings.children <= before.map({ $0.descriptors - $0.children }) ?? .max
        {
            return holdings
        }
        try expect(
            seconds() - begun < 20, "it has \(holdings), and had \(before.map(String.init(describing:)) ?? "fewer")")
        await Task.yield()
    }
}

private func callOften(_ calls: Int, from first: Int, _ shared: Shared) throws {
    for number in first..<first + calls where !shared.stop.load(ordering: .relaxed) {
        let begun = seconds()
        do {
            let order = WorkOrder(kind: WorkOrder.Kind.allCases[number % 3], number: number)
            let answer = try zygote.runAndWait("work", order, returning: String.self, deadline: .seconds(60))
            try expect(answer == order.result, "\(answer), not \(order.result)")
        } catch {
            shared.stop.store(true, ordering: .relaxed)
            throw error
        }
        shared.slowest.withLock { $0 = max($0, seconds() - begun) }
    }
}

/// What the threads of a mode have in common.
private final class Shared: Sendable {
    let stop = Atomic(false)
    let slowest = Mutex(0.0)
    let lost = Atomic(0)
    /// When each zygote's first answer came.
    let answers = Mutex<[String: Double]>([:])
}

private func checkedCall(_ number: Int) async throws {
    let order = WorkOrder(kind: WorkOrder.Kind.allCases[number % 3], number: number)
    let answer = try await zygote.run("work", order, returning: String.self, deadline: .seconds(60))
    try expect(answer == order.result, "\(answer), not \(order.result)")
}

private func onAThread(_ body: @escaping @Sendable () throws -> Void) async throws {
    try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
        Thread.detachNewThread { continuation.resume(with: Result { try body() }) }
    }
}

/// Traps, kills, exits, thrown errors, deadlines, cancellations, and answers: each reported as what it was.
@Sendable func mixedFailures(_ count: Int) async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
        for lane in 0..<8 {
            group.addTask { for number in 0..<count / 8 { try await mixedCall(lane + number) } }
        }
        try await group.waitForAll()
    }
    print(zygote.status)
}

private func mixedCall(_ number: Int) async throws {
    let wanted: ForkingError
    let got: ForkingError
    switch number % 7 {
    case 0:
        wanted = .ended(.signaled(trapSignal, dumpedCore: false))
        got = try await failure { try await zygote.run("trap") }
    case 1:
        wanted = .ended(.signaled(.kill, dumpedCore: false))
        got = try await failure { try await zygote.run("killed") }
    case 2:
        wanted = .ended(.exited(code: UInt8(number % 200).asExit))
        got = try await failure { try await zygote.run("exit", [UInt8(number % 200)]) }
    case 3:
        wanted = .threw(type: "Failed", description: "\(number)")
        got = try await failure { try await zygote.run("fail", Array("\(number)".utf8)) }
    case 4:
        wanted = .deadlineExceeded(.milliseconds(5))
        got = try await failure { try await zygote.run("hang", deadline: .milliseconds(5)) }
    case 5:
        wanted = .cancelled
        let task = Task { try await zygote.run(number % 2 == 0 ? "spin" : "hang") }
        for _ in 0..<number % 50 { await Task.yield() }
        task.cancel()
        got = try await failure { try await task.value }
    default:
        let reply = try await zygote.run("echo", Array("\(number)".utf8))
        return try expect(reply.bytes == Array("\(number)".utf8), "a wrong answer")
    }
    try expect(got == wanted, "call \(number): \(got), not \(wanted)")
}

extension UInt8 {
    fileprivate var asExit: Int32 { Int32(self) }
}

/// The zygote is killed under load, `count` times: calls in flight fail, no others, and calls succeed again within a
/// second.
@Sendable func zygoteKilled(_ count: Int) async throws {
    let shared = Shared()
    try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<8 {
            group.addTask {
                while !shared.stop.load(ordering: .relaxed) {
                    do {
                        let zygote = String(decoding: try await zygote.run("zygote").bytes, as: UTF8.self)
                        shared.answers.withLock { $0[zygote] = $0[zygote] ?? seconds() }
                    } catch let error as ForkingError where error.code == .zygoteLost {
                        shared.lost.add(1, ordering: .relaxed)
                    }
                }
            }
        }
        group.addTask {
            defer { shared.stop.store(true, ordering: .relaxed) }
            for _ in 0..<count { try await killZygote(shared) }
        }
        try await group.waitForAll()
    }
    let lost = shared.lost.load(ordering: .relaxed)
    print("\(lost) calls lost")
    // One that is dying still takes calls: who has lost one may lose another.
    try expect(lost <= 2 * 8 * count, "more calls were lost than were in flight: \(lost)")
}

private func killZygote(_ shared: Shared) async throws {
    guard let pid = zygote.pid else { throw Failed("no zygote") }
    kill(pid, SIGKILL)
    let killed = seconds()
    var again: Double?
    while again == nil {
        try expect(seconds() - killed < 20, "no answer any more")
        await Task.yield()
        again = shared.answers.withLock { answers in answers.first { $0.value > killed && $0.key != "\(pid)" }?.value }
    }
    print("answers again after \(again! - killed) s")
    // One that ends within its first second has no successor at once the second time.
    while seconds() < again! + 1.1 { await Task.yield() }
}
