// SPDX-License-Identifier: Apache-2.0
//
// What a host's threads see of its zygote: what it counts, and its end.

import Forking
import Glibc
import SystemPackage
import TestSupport

let zygoteWatchScenarios = Group(
    "zygote-watch",
    Scenario("zygote-counts-forward", "answers taken in any order count forward", countsForward),
    Scenario("zygote-counts-anew", "a late answer of a lost zygote does not count for the next", countsAnew),
    Scenario("zygote-drained-stays-so", "to look after a drained zygote starts none", drainedStaysSo),
    Scenario("zygote-killed-while-awaited", "a kill ends the wait for its end", killedWhileAwaited),
    Scenario("zygote-tells-of-calls", "its observer hears which calls have a place, and what was forked", tellsOfCalls),
    Scenario("zygote-loss-counts-once", "a loss is one failure, whatever calls there were", lossCountsOnce),
    Scenario("zygote-not-admitted", "a call that finds no zygote is told of as that", notAdmitted)
)

/// Answers that are taken in another order than they were given in.
private func countsForward() throws {
    let zygote = try startZygote()
    let calls = [try zygote.begin("echo"), try zygote.begin("echo"), try zygote.begin("echo")]
    for call in calls.reversed() { _ = try call.wait() }
    try expect(zygote.status.forks == 3, "\(zygote.status)")
    try zygote.finish()
}

/// An answer that is taken when the zygote it came from has been replaced.
private func countsAnew() throws {
    let zygote = try startZygote()
    for _ in 0..<5 { _ = try zygote.runAndWait("echo") }
    let late = try zygote.begin("echo")
    try awaitReadable(late.descriptor.rawValue)
    let pid = zygote.pid!
    Glibc.kill(pid, SIGKILL)
    try eventually("no other zygote") {
        zygote.poll()
        return zygote.pid.map { $0 != pid } == true
    }
    _ = try zygote.runAndWait("echo")
    _ = try late.wait()
    try expect(zygote.status.forks == 1, "\(zygote.status)")
    try zygote.finish()
}

private func drainedStaysSo() throws {
    let zygote = try startZygote()
    zygote.stop()
    try awaitReadable(zygote.descriptor!.rawValue)
    let pause = zygote.poll()
    try expect(pause == nil && zygote.pid == nil, "there is another: \(zygote.pid ?? 0)")
}

/// Kills it while another thread waits for its end.
private func killedWhileAwaited() throws {
    let zygote = try startZygote()
    let call = try zygote.begin("hang")
    let before = openDescriptors().count
    let waiter = try Thread { _ = zygote.shutDownAndWait(timeout: .seconds(60)) }
    try eventually("nobody waits") { openDescriptors().count > before }
    let begun = now()
    zygote.stop(.kill)
    waiter.join()
    let seconds = now() - begun
    try expect(seconds < 1, "it took \(seconds) s")
    let error = try failure(of: call)
    try expect(error == .shutDown, "the call failed so: \(error)")
}

private func tellsOfCalls() throws {
    let told = Told()
    let zygote = try startZygote(maxChildren: 1, told: told)
    let first = try zygote.begin("echo")
    let second = try zygote.begin("echo")
    try expect(told.begun == 1, "\(told.begun) have a place")
    _ = try first.wait()
    try expect(told.begun == 2, "\(told.begun) have had a place")
    _ = try second.wait()
    let waiting = try zygote.begin("hang")
    let never = try zygote.begin("echo")
    never.cancel()
    _ = try failure(of: never)
    waiting.cancel()
    _ = try failure(of: waiting)
    try zygote.finish()
    let reports = told.reports
    try expect(reports.map { $0.waited != nil } == [true, true, false, true], "\(reports)")
    let forks = reports.reduce(0) { $0 + $1.work.forks }
    try expect(forks == zygote.status.forks && forks >= 2, "\(forks) forks, \(zygote.status)")
}

/// A zygote is lost with a call that it had, and one that waited. What then becomes of them is no failure more.
private func lossCountsOnce() throws {
    let told = Told()
    let zygote = try startZygote(maxChildren: 1, told: told)
    try loseEarly(zygote)
    let running = try zygote.begin("hang"), waiting = try zygote.begin("hang")
    try loseEarly(zygote)
    _ = try failure(of: running)
    _ = try failure(of: waiting)
    try eventually("no other zygote") {
        zygote.poll()
        return zygote.pid != nil
    }
    try loseEarly(zygote)
    zygote.stop(.kill)
    try expect(told.losses.map(\.failures) == [0, 1, 2], "\(told.losses)")
}

/// A call that cannot begin is told of as what it is: it was not cancelled.
private func notAdmitted() throws {
    let told = Told()
    let zygote = try startZygote(told: told)
    try loseEarly(zygote)
    try loseEarly(zygote)
    guard try failure({ _ = try zygote.begin("echo") }).code == .zygoteLost else { throw Failure("not lost") }
    guard told.reports.last?.failure?.code == .zygoteLost else { throw Failure("\(told.reports)") }
    zygote.stop(.kill)
}

/// Kills a zygote that has hardly begun: the second time in a row, the next one waits.
private func loseEarly(_ zygote: Zygote) throws {
    let pid = zygote.pid
    Glibc.kill(pid!, SIGKILL)
    try eventually("it lives on") {
        zygote.poll()
        return zygote.pid != pid
    }
}

extension Told {
    fileprivate var begun: Int { all.count { if case .began = $0 { true } else { false } } }
    var reports: [Zygote.CallReport] {
        all.compactMap { if case .finished(let report) = $0 { report } else { nil } }
    }
}

private func awaitReadable(_ descriptor: Int32) throws {
    var polled = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    try expect(poll(&polled, 1, 10_000) == 1, "nothing to read")
}

/// A thread of this process.
final class Thread: @unchecked Sendable {
    private var handle = pthread_t()
    private let body: @Sendable () -> Void

    init(_ body: @escaping @Sendable () -> Void) throws {
        self.body = body
        let code = pthread_create(
            &handle, nil,
            {
                Unmanaged<Thread>.fromOpaque($0!).takeRetainedValue().body()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        try expect(code == 0, "pthread_create: \(code)")
    }

    func join() { pthread_join(handle, nil) }
}
