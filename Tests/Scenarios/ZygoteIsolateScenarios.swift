// SPDX-License-Identifier: Apache-2.0
//
// Children that live on and answer many calls: their state, their order, and each way in which they end.

import Forking
import Glibc
import Synchronization
import SystemPackage
import TestSupport

let zygoteIsolateScenarios = Group(
    "zygote-isolate",
    Scenario("isolate-state", "an isolate keeps its state, and no other sees it", state),
    Scenario("isolate-order", "calls of 8 threads are served in order, each once", order),
    Scenario("isolate-throws", "a call that throws, or whose reply is too long, fails alone", throwing),
    Scenario("isolate-long", "requests and replies may be long, and may have descriptors", long),
    Scenario("isolate-trap", "a trap fails the call in flight, and the next is served by another child", trap),
    Scenario("isolate-deadline", "a deadline costs the child only if the call is in flight", deadline),
    Scenario("isolate-wrong", "an isolate is not called as a handler, nor the other way round", wrong),
    Scenario("isolate-start-fails", "one that cannot start fails with the cause, and leaves its slot", startFails),
    Scenario("isolate-slot", "an isolate has a slot while it lives", slot),
    Scenario("isolate-limits", "limits hold for the child's whole life", limits),
    Scenario("isolate-max-calls", "a child is recycled after so many calls, and no call fails", maxCalls),
    Scenario("isolate-max-age", "a child is recycled at an age, and no call fails", maxAge),
    Scenario("isolate-never", "without restarts, calls fail with the cause from then on", never),
    Scenario("isolate-at-most", "after so many restarts in a time it is over", atMost),
    Scenario("isolate-back-off", "children that end at once are restarted at growing intervals", backOff)
)

// MARK: Calls

private func state() throws {
    let told = Told()
    let zygote = try startStates(told: told)
    let (one, other) = (try zygote.state(5), try zygote.state(100))
    let pid = try one.number(.pid)
    for count in 6...105 as ClosedRange<Int32> { try one.expect(count) }
    try other.expect(101)
    try expect(one.number(.pid) == pid && other.number(.pid) != pid, "another child")
    try expect(zygote.status.isolates == 2 && zygote.status.running == 0, "\(zygote.status)")
    try expect(one.status.calls == 102 && one.status.starts == 1 && one.status.isRunning, "\(one.status)")
    try expect(told.reports.count == 104 && told.reports.allSatisfy { $0.isolate != nil }, "\(told.reports.count)")
    try zygote.expectEcho()
    for isolate in [one, other] { try expect(isolate.closeAndWait() == .exited(code: 0), "not its end") }
    try expect(told.isolateStarts == 2 && told.ends.map(\.calls) == [102, 2], "\(told.ends)")
    try expect(zygote.status.isolates == 0, "\(zygote.status)")
    try zygote.finish()
}

private func order() throws {
    let zygote = try startZygote(maxWaiting: 8, addState)
    let isolate = try zygote.state()
    let all = Mutex<[Int32]>([])
    let failures = Mutex<[String]>([])
    let threads = try (0..<8).map { _ in
        try Thread {
            var last: Int32 = 0
            for _ in 0..<200 {
                do throws(ForkingError) {
                    let count = try isolate.number(.add)
                    if count <= last { failures.withLock { $0.append("\(count) after \(last)") } }
                    last = count
                    all.withLock { $0.append(count) }
                } catch { failures.withLock { $0.append("\(error)") } }
            }
        }
    }
    threads.forEach { $0.join() }
    try expect(failures.withLock { $0 } == [], "\(failures.withLock { $0 })")
    try expect(all.withLock { $0.sorted() } == Array(1...1600), "not each once")
    isolate.closeAndWait()
    try zygote.finish()
}

private func throwing() throws {
    let zygote = try startStates()
    let isolate = try zygote.state()
    let error = try isolate.failure(.fail)
    try expect(error == .threw(type: "Failure", description: "as asked"), "\(error)")
    try isolate.expect(1)
    for count in [20, 100_000] {
        let request = [IsolateOrder.echo.rawValue] + [UInt8](repeating: 7, count: count)
        let long = try failure { _ = try isolate.runAndWait(request, maxReplyBytes: count - 1) }
        try expect(long.code == .invalid, "\(long)")
        try expect(isolate.runAndWait(request, maxReplyBytes: count).bytes.count == count, "cut")
    }
    try isolate.expect(2)
    try expect(isolate.status.starts == 1, "\(isolate.status)")
    isolate.closeAndWait()
    try zygote.finish()
}

private func long() throws {
    let zygote = try startStates()
    let isolate = try zygote.state()
    for count in [0, 1, 32_767, 32_768, 1_000_000, 5_000_000] {
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
        let reply = try isolate.runAndWait([IsolateOrder.echo.rawValue] + bytes)
        try expect(reply.bytes == bytes, "\(count) bytes did not come back")
    }
    for _ in 0..<100 {
        let channel = try Channel()
        let given = FileDescriptor(rawValue: channel.ends.write)
        let reply = try isolate.runAndWait([IsolateOrder.echo.rawValue], descriptors: [given], expecting: 1)
        channel.closeWrite()
        let back = reply.takeDescriptors()
        try expect(back.count == 1 && (try back[0].writeAll([7])) == 1, "\(back)")
        try back[0].close()
        channel.closeRead()
    }
    let channel = try Channel()
    let given = FileDescriptor(rawValue: channel.ends.write)
    let unexpected = try failure { _ = try isolate.runAndWait([IsolateOrder.echo.rawValue], descriptors: [given]) }
    try expect(unexpected.code == .invalid, "\(unexpected)")
    channel.closeWrite()
    channel.closeRead()
    try isolate.expect(1)
    isolate.closeAndWait()
    try zygote.finish()
}

private func trap() throws {
    let told = Told()
    let zygote = try startStates(told: told)
    let isolate = try zygote.state(5, .always)
    try isolate.expect(6)
    let error = try isolate.failure(.trap)
    try expect(error == .ended(trapped), "\(error)")
    try isolate.expect(6)
    let report = told.ends[0]
    try expect(report.reason == .ended && report.status == trapped && report.pause == .zero, "\(report)")
    try expect(report.calls == 2 && report.usage != nil, "\(report)")
    try expect(isolate.failure(.leave) == .ended(.exited(code: 7)), "not its status")
    try isolate.expect(6)
    try expect(isolate.status.starts == 3, "\(isolate.status)")
    isolate.closeAndWait()
    try zygote.finish()
}

private func deadline() throws {
    let told = Told()
    let zygote = try startStates(told: told)
    let isolate = try zygote.state(0, .always)
    try isolate.expect(1)
    let (call, child) = try isolate.begun()
    let late = try isolate.failure(.add, deadline: .milliseconds(20))
    try expect(late == .deadlineExceeded(.milliseconds(20)), "\(late)")
    try expect(isolate.status.starts == 1 && Process(child)?.isZombie == false, "it cost the child")
    let next = try OtherCall(isolate, .add)
    kill(child, SIGKILL)
    try expect(call.failure() == .ended(.signaled(.kill, dumpedCore: false)), "not killed")
    try expect(next.wait() == .success([1, 0, 0, 0]), "another state")
    let error = try isolate.failure(.hang, deadline: .milliseconds(20))
    try expect(error == .deadlineExceeded(.milliseconds(20)), "\(error)")
    try isolate.expect(1)
    try expect(told.ends.map(\.reason) == [.ended, .killed], "\(told.ends)")
    // However often that happens, the next child is not held back.
    for _ in 0..<5 {
        _ = try isolate.failure(.hang, deadline: .milliseconds(5))
        try isolate.expect(1)
    }
    try expect(told.ends.allSatisfy { $0.pause == .zero }, "\(told.ends)")
    isolate.closeAndWait()
    try zygote.finish()
}

private func wrong() throws {
    let zygote = try startStates()
    for body in [
        { _ = try zygote.runAndWait("state") }, { _ = try zygote.isolateAndWait("echo") },
        { _ = try zygote.state { $0.maxCalls = 0 } }, { _ = try zygote.state { $0.maxAge = .zero } },
        { _ = try zygote.state(0, .atMost(0, within: .seconds(1))) },
    ] as [() throws -> Void] {
        let error = try failure(body)
        try expect(error.code == .invalid, "\(error)")
    }
    let none = try failure { _ = try zygote.isolateAndWait("none") }
    try expect(none.code == .noHandler, "\(none)")
    try expect(zygote.status.isolates == 0, "\(zygote.status)")
    try zygote.finish()
}

private func startFails() throws {
    let told = Told()
    let zygote = try startStates(1, told: told)
    for restart in [Zygote.Isolate.Restart.never, .always] {
        let threw = try failure { _ = try zygote.state(255, restart) }
        try expect(threw == .threw(type: "Failure", description: "no state"), "\(threw)")
        let trap = try failure { _ = try zygote.state(254, restart) }
        try expect(trap == .ended(trapped), "\(trap)")
    }
    try eventually("not told") { told.ends.count == 4 }
    try expect(told.ends.allSatisfy { $0.reason == .startFailed && $0.pause == nil }, "\(told.ends)")
    let (call, _) = try zygote.begun()
    let late = try failure { _ = try zygote.state(deadline: .milliseconds(30)) }
    try expect(late == .deadlineExceeded(.milliseconds(30)), "\(late)")
    call.cancel()
    _ = try failure(of: call)
    try zygote.expectEcho()
    try zygote.finish()
}

private func slot() throws {
    let zygote = try startStates(1)
    let isolate = try zygote.state()
    let call = try zygote.begin("echo", [1])
    try expect(zygote.status.waiting == 1 && zygote.status.isolates == 1, "\(zygote.status)")
    try isolate.expect(1)
    try expect(!isReadable(call.descriptor.rawValue, within: 0.05), "it did not wait")
    isolate.closeAndWait()
    try expect(call.wait().bytes == [1], "no answer")
    try zygote.finish()
}

private func limits() throws {
    let zygote = try startStates()
    let isolate = try zygote.state {
        $0.limits = ResourceLimits()
        $0.limits?.maxCPUSeconds = 1
    }
    try isolate.expect(1)
    let error = try isolate.failure(.spin)
    try expect(signal(in: error)?.rawValue == SIGXCPU || signal(in: error) == .kill, "\(error)")
    try zygote.finish()
}

// MARK: Recycling and restarts

private func maxCalls() throws {
    let told = Told()
    let zygote = try startStates(told: told)
    let isolate = try zygote.state { $0.maxCalls = 7 }
    for number in 0..<100 as Range<Int32> { try isolate.expect(number % 7 + 1) }
    try expect(isolate.status.starts == 15, "\(isolate.status)")
    try expect(told.ends.count == 14, "\(told.ends.count)")
    for report in told.ends {
        let isRecycled = report.reason == .recycled && report.calls == 7 && report.status == .exited(code: 0)
        try expect(isRecycled && report.pause == .zero && !Zygote.Event.isolateEnded(report).isTrouble, "\(report)")
    }
    isolate.closeAndWait()
    try zygote.finish()
}

private func maxAge() throws {
    let told = Told()
    let zygote = try startStates(told: told)
    let isolate = try zygote.state { $0.maxAge = .milliseconds(50) }
    let begun = now()
    while now() - begun < 0.5 { _ = try isolate.number(.add) }
    let busy = told.ends.count
    try expect(busy >= 3, "\(busy)")
    try eventually("an idle one is not recycled") { told.ends.count > busy + 1 }
    try expect(told.ends.allSatisfy { $0.reason == .recycled }, "\(told.ends)")
    isolate.closeAndWait()
    try zygote.finish()
}

private func never() throws {
    let told = Told()
    let zygote = try startStates(told: told)
    let isolate = try zygote.state()
    let ends = Mutex<[ForkingError?]>([])
    isolate.whenEnded { end in ends.withLock { $0.append(end) } }
    try expect(isolate.failure(.trap) == .ended(trapped), "no trap")
    try eventually("it is not over") { isolate.status.hasEnded }
    try expect(isolate.failure(.add) == .ended(trapped), "not the cause")
    try eventually("not told") { ends.withLock { $0 } == [.ended(trapped)] }
    isolate.whenEnded { end in ends.withLock { $0.append(end) } }
    try expect(ends.withLock { $0.count } == 2, "not told at once")
    try expect(isolate.closeAndWait() == trapped && told.ends[0].pause == nil, "\(told.ends)")
    try expect(zygote.status.isolates == 0, "\(zygote.status)")
    try zygote.finish()
}

private func atMost() throws {
    let zygote = try startStates()
    let isolate = try zygote.state(0, .atMost(2, within: .seconds(60)))
    for _ in 0..<2 {
        try expect(isolate.failure(.trap) == .ended(trapped), "no trap")
        try isolate.expect(1)
    }
    try expect(isolate.failure(.trap) == .ended(trapped), "no trap")
    try expect(isolate.failure(.add) == .ended(trapped), "a third restart")
    try zygote.finish()
}

private func backOff() throws {
    let told = Told()
    let zygote = try startStates(told: told)
    let isolate = try zygote.state(0, .always)
    for _ in 0..<4 { _ = try isolate.failure(.trap) }
    try isolate.expect(1)
    let pauses = told.ends.map { $0.pause! }
    try expect(pauses[0] == .zero && pauses[1] > .zero && pauses[1] < pauses[2] && pauses[2] < pauses[3], "\(pauses)")
    _ = try isolate.failure(.trap)
    // Nobody waits for the pause.
    let begun = now()
    isolate.closeAndWait()
    try expect(now() - begun < 0.5, "it took \(now() - begun) s")
    try zygote.finish()
}
