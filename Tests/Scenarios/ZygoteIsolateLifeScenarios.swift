// SPDX-License-Identifier: Apache-2.0
//
// How isolates end, and what is left of them.

import Forking
import Glibc
import Synchronization
import SystemPackage
import TestSupport

let zygoteIsolateLifeScenarios = Group(
    "zygote-isolate-life",
    Scenario("isolate-close", "closed, it serves what was begun, and its child ends by itself", close),
    Scenario("isolate-close-timeout", "closed, a child that does not end is killed", closeTimeout),
    Scenario("isolate-released", "released, it is killed", released),
    Scenario("isolate-killed-idle", "a child that is killed while it is idle is noticed at once", killedIdle),
    Scenario("isolate-killed-late", "a child may end just as its call's deadline passes", killedLate),
    Scenario("isolate-killed-unread", "a call that a killed child left unread is nobody's arguments", unread),
    Scenario("isolate-zygote-killed", "a killed zygote costs the calls in flight, and the state", zygoteKilled),
    Scenario("isolate-zygote-stopped", "a zygote that stands still is replaced when a child must end", zygoteStopped),
    Scenario("isolate-drained", "a drained zygote closes its isolates", drained),
    Scenario("isolate-zygote-ended", "an isolate ends with a zygote that is told to end", zygoteEnded),
    Scenario("isolate-thousand", "a thousand isolates, one after the other, leave nothing", thousand),
    Scenario("isolate-hostile", "a child that replies to no call is killed", hostile),
    Scenario(program: "isolate-host", host),
    Scenario("isolate-host-killed", "nothing outlives a host that is killed", hostKilled)
)

// MARK: Ends

private func close() throws {
    let zygote = try startStates()
    let isolate = try zygote.state()
    let calls = try (0..<5).map { _ in try OtherCall(isolate, .add) }
    try eventually("not all were begun") { isolate.status.calls + isolate.status.waiting == 5 }
    try expect(isolate.closeAndWait() == .exited(code: 0), "killed")
    for call in calls { if case .failure(let error) = try call.wait() { throw error } }
    try expect(isolate.failure(.add) == .shutDown, "it goes on")
    try expect(isolate.closeAndWait() == .exited(code: 0), "another status")
    try zygote.finish()
}

private func closeTimeout() throws {
    let told = Told()
    let zygote = try startStates(told: told)
    let isolate = try zygote.state(0, .always)
    let (call, child) = try isolate.begun()
    let waiting = try OtherCall(isolate, .add)
    try eventually("it does not wait") { isolate.status.waiting == 1 }
    let status = isolate.closeAndWait(timeout: .milliseconds(50))
    try expect(status == .signaled(.kill, dumpedCore: false), "\(status?.description ?? "no status")")
    try expectGone([child])
    try expect(call.failure() == .shutDown && waiting.failure() == .shutDown, "not shut down")
    try expect(told.ends.map(\.reason) == [.closed], "\(told.ends)")
    try zygote.finish()
}

private func released() throws {
    let told = Told()
    let zygote = try startStates(1, told: told)
    for _ in 0..<20 {
        var isolate: Zygote.Isolate? = try zygote.state(0, .always)
        let child = try isolate!.number(.pid)
        isolate = nil
        try expectGone([child])
        try zygote.expectEcho()
    }
    try eventually("not told") { told.ends.count == 20 }
    try expect(told.ends.allSatisfy { $0.reason == .released && $0.pause == nil }, "\(told.ends)")
    try zygote.finish()
}

private func killedIdle() throws {
    let told = Told()
    let zygote = try startStates(told: told)
    let isolate = try zygote.state(0, .always)
    let child = try isolate.number(.pid)
    kill(child, SIGKILL)
    try eventually("not noticed") { told.ends.count == 1 && isolate.status.starts == 2 }
    try isolate.expect(1)
    isolate.closeAndWait()
    try zygote.finish()
}

/// The caller leaves, and another thread is to learn of the child's end.
private func killedLate() throws {
    let zygote = try startStates()
    let pid = zygote.pid
    for round in 0..<300 {
        let isolate = try zygote.state()
        let child = try isolate.number(.pid)
        let killer = try Thread {
            usleep(useconds_t(1000 + round % 30 * 50))
            kill(child, SIGKILL)
        }
        let error = try isolate.failure(.hang, deadline: .milliseconds(2))
        let isExpected = error.code == .deadlineExceeded || error == .ended(.signaled(.kill, dumpedCore: false))
        try expect(isExpected, "\(error)")
        killer.join()
        isolate.closeAndWait()
    }
    try expect(zygote.pid == pid, "the zygote was replaced: it seemed to hang")
    try zygote.finish()
}

private func unread() throws {
    let zygote = try startStates()
    for restart in [Zygote.Isolate.Restart.never, .always] {
        let isolate = try zygote.state(0, restart)
        let child = try isolate.number(.pid)
        kill(child, SIGSTOP)
        try eventually("it goes on") { Process(child)?.state == "T" }
        let call = try OtherCall(isolate, .add)
        try eventually("it was not sent") { isolate.status.running == 1 }
        usleep(20_000)  // until it is in the channel
        kill(child, SIGKILL)
        try expect(call.failure() == .ended(.signaled(.kill, dumpedCore: false)), "not killed")
        if restart == .always { try isolate.expect(1) }
        isolate.closeAndWait()
    }
    try zygote.finish()
}

private func zygoteKilled() throws {
    let told = Told()
    let zygote = try startStates(told: told)
    let (frail, firm) = (try zygote.state(), try zygote.state(5, .atMost(1, within: .seconds(60))))
    let begun = now()
    while now() - begun < 1.05 { try zygote.expectEcho() }
    for _ in 0..<2 {
        let (call, child) = try firm.begun()
        let waiting = try OtherCall(firm, .add)
        try eventually("it does not wait") { firm.status.waiting == 1 }
        kill(zygote.pid!, SIGKILL)
        try expect(call.failure() == .lost(nextStart: nil), "not lost")
        try expect(waiting.wait() == .success([6, 0, 0, 0]), "not served")
        try expectGone([child])
    }
    try expect(frail.failure(.add) == .lost(nextStart: nil), "not lost")
    try expect(told.ends.count { $0.reason == .zygoteLost } == 3, "\(told.ends)")
    firm.closeAndWait()
    try zygote.finish()
}

/// The zygote does not kill the child that it is to kill.
private func zygoteStopped() throws {
    let zygote = try startStates()
    let isolate = try zygote.state(0, .always)
    let pid = zygote.pid!
    kill(pid, SIGSTOP)
    let error = try isolate.failure(.hang, deadline: .milliseconds(20))
    try expect(error == .deadlineExceeded(.milliseconds(20)), "\(error)")
    try isolate.expect(1)
    try expect(zygote.pid != pid, "it was not replaced")
    isolate.closeAndWait()
    try zygote.finish()
}

private func drained() throws {
    let zygote = try startStates()
    let (idle, busy) = (try zygote.state(), try zygote.state(0, .always))
    let calls = try (0..<3).map { _ in try OtherCall(busy, .add) }
    try eventually("not all were begun") { busy.status.calls + busy.status.waiting == 3 }
    zygote.stop()
    for call in calls { if case .failure(let error) = try call.wait() { throw error } }
    try zygote.finish()
    for isolate in [idle, busy] { try expect(isolate.failure(.add) == .shutDown, "not shut down") }
    try expect(failure { _ = try zygote.state() } == .shutDown, "another isolate")
}

private func zygoteEnded() throws {
    let zygote = try startStates()
    let (busy, pausing) = (try zygote.state(0, .always), try zygote.state(0, .always))
    for _ in 0..<5 { _ = try pausing.failure(.trap) }
    let waiting = try OtherCall(pausing, .add)
    try eventually("it does not wait") { pausing.status.waiting == 1 }
    let (call, child) = try busy.begun()
    zygote.stop(.kill)
    try expect(call.failure() == .shutDown && waiting.failure() == .shutDown, "not shut down")
    try expectGone([child])
    for isolate in [busy, pausing] { try eventually("not over") { isolate.status.hasEnded } }
    try zygote.finish()
}

private func thousand() throws {
    let zygote = try startStates(1)
    try zygote.awaitWarm()
    let before = openDescriptors()
    for number in 0..<1000 {
        let isolate = try zygote.state(UInt8(number % 100))
        try isolate.expect(Int32(number % 100) + 1)
        try expect(isolate.closeAndWait() == .exited(code: 0), "killed")
    }
    try eventually("descriptors before \(before), after \(openDescriptors())") {
        openDescriptors().count <= before.count
    }
    try zygote.finish()
}

private func hostile() throws {
    let told = Told()
    let zygote = try startStates(told: told)
    let isolate = try zygote.state(0, .always)
    let child = try isolate.number(.pid)
    let error = try isolate.failure(.lie)
    try expect(error.code == .invalid, "\(error)")
    try expectGone([child])
    try isolate.expect(1)
    isolate.closeAndWait()
    try zygote.finish()
}

let zygoteIsolateScenariosWithTracing = Group(
    "zygote-isolate-with-tracing",
    Scenario(program: "isolate-calls", calls),
    Scenario("isolate-system-calls", "each call makes a few system calls, and no more as time goes by", systemCalls)
)

private func calls() throws {
    let zygote = try startStates()
    let isolate = try zygote.state()
    for count in 1...Int32(CommandLine.arguments[2])! { try isolate.expect(count) }
    isolate.closeAndWait()
    try zygote.finish()
}

private func realPath(_ path: String) throws -> String {
    guard let real = realpath(path, nil) else { throw Failure("no \(path)") }
    defer { free(real) }
    return String(cString: real)
}

private func systemCalls() throws {
    /// Those that the host, its zygote and their children have begun.
    func traced(_ count: Int) throws -> Int {
        let path = "/tmp/forking-isolate-\(getpid())"
        defer { unlink(path) }
        // Of strace, /proc/self/exe would be its own.
        let program = try realPath("/proc/self/exe")
        let arguments = ["-f", "-qq", "-o", path, program, "isolate-calls", "\(count)"]
        let strace = try Running("strace", arguments)
        try expect(strace.wait() == 0, strace.errors)
        let text = contents(of: path) ?? ""
        return text.split(separator: "\n").count { !$0.contains(" resumed>") && $0.contains("(") }
    }
    // In the host sendmsg, poll and sched_yield once or twice, perhaps ppoll, and recvmsg; two in the child.
    let counts = try [500, 1500, 2500].map(traced)
    for (few, many) in zip(counts, counts.dropFirst()) {
        try expect((4900...10_000).contains(many - few), "\(counts)")
    }
}

private func host() throws {
    let zygote = try startStates()
    let isolates = [try zygote.state(), try zygote.state()]
    var pids = [zygote.pid!, try isolates[0].number(.pid)]
    let (call, child) = try isolates[1].begun()
    pids.append(child)
    print(pids.map { "\($0)" }.joined(separator: " "))
    fflush(nil)
    withExtendedLifetime((isolates, call)) { while true { pause() } }
}

private func hostKilled() throws {
    let host = try Running("/proc/self/exe", ["isolate-host"])
    let pids = (try host.line() ?? "").split(separator: " ").compactMap { pid_t($0) }
    try expect(pids.count == 3 && pids.allSatisfy { Process($0) != nil }, "it did not begin: \(pids) \(host.errors)")
    host.send(SIGKILL)
    try expectGone(pids)
    try expect(host.wait() == -SIGKILL, "it ended otherwise")
    try host.expectNothingAlive()
}
