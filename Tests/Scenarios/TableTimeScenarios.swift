// SPDX-License-Identifier: Apache-2.0
//
// Deadlines, and what they and a stop mean for a child's process group.

import Forking
import Glibc
import SystemPackage
import TestSupport

let tableTimeScenarios = Group(
    "table-time",
    Scenario("time-limit", "SIGTERM at the time limit", eachWay(timeLimit)),
    Scenario("stubborn-child", "a stubborn child is killed after its deadline", eachWay(stubbornChild)),
    Scenario("time-limit-of-group", "grandchildren end with a child at its time limit") {
        try timeLimitOfGroup(stubbornLeader: true)
    },
    Scenario("time-limit-leader-first", "grandchildren end at the time limit when their leader died first") {
        try timeLimitOfGroup(stubbornLeader: false)
    },
    Scenario(
        "terminate-reaches-group", "SIGTERM reaches grandchildren whose leader ignores it",
        eachWay(terminateReachesGroup)),
    Scenario(
        "ends-groups-leader-first", "grandchildren end when their leader died first while stopping",
        eachWay(endsGroupsLeaderFirst)),
    Scenario(
        "background-left-alone", "in service a child's background process is left alone", eachWay(backgroundLeftAlone)),
    Scenario("left-its-group", "a child that leaves its process group is still ended", leftItsGroup),
    Scenario("each-its-deadline", "several deadlines, each kept in its turn", eachItsDeadline),
    Scenario("wait-with-deadline", "waiting with a deadline leaves the child alone", eachWay(waitWithDeadline))
)

/// Ignored from before the fork: a child that sets this itself may be told to end before it has.
private func ignoringTermination<R>(_ body: () throws -> R) rethrows -> R {
    signal(SIGTERM, SIG_IGN)
    defer { signal(SIGTERM, SIG_DFL) }
    return try body()
}

private func options(timeout: Duration? = nil, killTimeout: Duration = .seconds(30)) -> ChildOptions {
    var options = ChildOptions()
    options.timeout = timeout
    options.killTimeout = killTimeout
    return options
}

private func timeLimit(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(reaping: way)
    try recording.table.fork(options: options(timeout: .milliseconds(50)), liveOn)
    let quick = try recording.table.fork(options: options(timeout: .seconds(60))) { 0 }
    for exit in try recording.finish() where exit.pid != quick {
        try expect(exit.status == .signaled(.terminate, dumpedCore: false) && exit.reason == .timeout, "\(exit)")
        try expect(exit.duration >= .milliseconds(50) && !exit.isSuccess, "\(exit)")
    }
    try expect(recording.exits.contains { $0.pid == quick && $0.isSuccess }, "\(recording.exits)")
}

private func stubbornChild(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(reaping: way)
    let limits = options(timeout: .milliseconds(50), killTimeout: .milliseconds(100))
    try ignoringTermination { _ = try recording.table.fork(options: limits, liveOn) }
    let exit = try recording.finishOne()
    try expect(exit.status == .signaled(.kill, dumpedCore: false) && exit.reason == .timeout, "\(exit)")
    try expect(exit.duration >= .milliseconds(150), "killed too early: \(exit)")
}

/// A child whose own child says 1 when it lives, and 2 when it is told something. Only these two hold the channel.
private func forkFamily(
    _ table: ChildTable, _ options: ChildOptions = ChildOptions(), reports: Channel, gate: Channel,
    leader: () -> Int32
) throws -> ProcessID {
    let pid = try table.fork(options: options) {
        let member = foreignChild {
            reports.say()
            gate.waitToBeTold()
            reports.say(2)
            return 0
        }
        reports.closeWrite()
        return member > 0 ? leader() : 1
    }
    reports.closeWrite()
    let first = try reports.hear()
    try expect(first == 1, "the grandchild does not live")
    return pid
}

/// SIGTERM and SIGKILL go to the group; and a group that outlives a leader who took the SIGTERM still gets SIGKILL.
private func timeLimitOfGroup(stubbornLeader: Bool) throws {
    for way in [ChildTable.Reaping.signal, .pidfd] {
        let (reports, gate) = (try Channel(), try Channel())
        let recording = try RecordingTable(reaping: way)
        let limits = options(timeout: .milliseconds(500), killTimeout: .milliseconds(stubbornLeader ? 100 : 30_000))
        _ = try ignoringTermination {
            try forkFamily(recording.table, limits, reports: reports, gate: gate) {
                if !stubbornLeader { signal(SIGTERM, SIG_DFL) }
                return liveOn()
            }
        }
        let exit = try recording.finishOne()
        let last: Signal = stubbornLeader ? .kill : .terminate
        try expect(exit.status == .signaled(last, dumpedCore: false) && exit.reason == .timeout, "\(exit)")
        let heard = try reports.hear()
        try expect(heard == nil, "the grandchild lives")
        reports.closeRead()
        gate.close()
    }
}

/// What can end well on SIGTERM is told to, even if its leader does not listen.
private func terminateReachesGroup(_ way: ChildTable.Reaping) throws {
    let reports = try Channel()
    let recording = try RecordingTable(reaping: way)
    let pid = try ignoringTermination {
        try recording.table.fork(options: options()) {
            let member = foreignChild {
                signal(SIGTERM, SIG_DFL)
                reports.say()
                return liveOn()
            }
            reports.closeWrite()
            return member > 0 ? liveOn() : 1
        }
    }
    reports.closeWrite()
    let first = try reports.hear()
    try expect(first == 1, "the grandchild does not live")
    recording.table.terminate(pid)
    let heard = try reports.hear()
    try expect(heard == nil && recording.table.children.map(\.isEnding) == [true], "\(recording.table.children)")
    try expect(Process(pid).map { !$0.isZombie } ?? false, "the leader was not to end")
    recording.table.killAll()
    let exit = try recording.finishOne()
    try expect(exit.status == .signaled(.kill, dumpedCore: false) && exit.reason == .stopped, "\(exit)")
    reports.closeRead()
}

/// While a server stops: a leader that went by itself takes its group along.
private func endsGroupsLeaderFirst(_ way: ChildTable.Reaping) throws {
    let (reports, gate) = (try Channel(), try Channel())
    let recording = try RecordingTable(reaping: way)
    recording.table.endsGroups = true
    _ = try forkFamily(recording.table, reports: reports, gate: gate) { 9 }
    let exit = try recording.finishOne()
    try expect(exit.status == .exited(code: 9) && exit.reason == .own, "\(exit)")
    let heard = try reports.hear()
    try expect(heard == nil, "the grandchild lives")
    reports.closeRead()
    gate.close()
}

/// In service, what a child leaves running is none of ours.
private func backgroundLeftAlone(_ way: ChildTable.Reaping) throws {
    let (reports, gate) = (try Channel(), try Channel())
    let recording = try RecordingTable(reaping: way)
    _ = try forkFamily(recording.table, options(timeout: .seconds(30)), reports: reports, gate: gate) { 9 }
    let exit = try recording.finishOne()
    try expect(exit.status == .exited(code: 9) && exit.reason == .own, "\(exit)")
    recording.table.terminateAll()
    recording.table.killAll()
    recording.table.collect()
    gate.say()
    let heard = try reports.hear()
    try expect(heard == 2, "the grandchild was ended")
    reports.closeRead()
    gate.close()
}

/// The timer follows the earliest deadline, in whatever order they came, and goes on to the next.
private func eachItsDeadline() throws {
    let recording = try RecordingTable()
    let other = try RecordingTable()
    let long = try recording.table.fork(options: options(timeout: .milliseconds(600)), liveOn)
    let short = try recording.table.fork(options: options(timeout: .milliseconds(200)), liveOn)
    let middle = try other.table.fork(options: options(timeout: .milliseconds(400)), liveOn)
    let forever = try recording.table.fork(options: options(timeout: .seconds(1 << 62)), liveOn)
    try eventually("deadlines were overlooked: \(recording.table.children)") {
        _ = isReadable(recording.table.descriptor.rawValue, within: 5)
        recording.table.collect()
        return recording.table.count == 1 && other.table.count == 0
    }
    try expect(recording.exits.map(\.pid) == [short, long] && other.exits.map(\.pid) == [middle], "wrong order")
    for exit in recording.exits + other.exits {
        let limit = [long: 600, short: 200, middle: 400][exit.pid]!
        try expect(exit.duration >= .milliseconds(limit) && exit.reason == .timeout, "\(exit)")
    }
    try expect(recording.table.children.map(\.pid) == [forever], "\(recording.table.children)")
    recording.table.killAll()
    try recording.finish()
    try expect(recording.exits.last?.reason == .stopped, "\(recording.exits)")
}

/// Waiting sends nothing to anyone.
private func waitWithDeadline(_ way: ChildTable.Reaping) throws {
    let gate = try Channel()
    let recording = try RecordingTable(reaping: way)
    let empty = try recording.table.wait(atMost: .zero)
    try expect(empty, "an empty table is not empty")
    let pid = try recording.table.fork {
        gate.waitToBeTold()
        return 11
    }
    for deadline in [Duration.zero, .milliseconds(-5), .milliseconds(50)] {
        let begun = now()
        let emptied = try recording.table.wait(atMost: deadline)
        try expect(!emptied && recording.exits.isEmpty, "said to be empty with a living child")
        try expect(Duration.seconds(now() - begun) >= deadline, "did not wait for \(deadline)")
        try expect(now() - begun < 20, "waited for \(now() - begun) s")
    }
    let children = recording.table.children
    try expect(children.map(\.pid) == [pid] && !children[0].isEnding, "\(children)")
    gate.close()
    let emptied = try recording.table.wait()
    try expect(emptied && recording.exits.map(\.status) == [.exited(code: 11)], "\(recording.exits)")
}

/// A child that goes over to its parent's process group is still reached: itself, and not its parent; also if others
/// are left in the group that was its own.
private func leftItsGroup() throws {
    for leavesOthers in [false, true] {
        let recording = try RecordingTable()
        let ready = try Channel()
        var options = ChildOptions()
        options.killTimeout = .milliseconds(50)
        try recording.table.fork(options: options) {
            signal(SIGTERM, SIG_IGN)
            if leavesOthers { _ = foreignChild { liveOn() } }
            guard setpgid(0, getpgid(getppid())) == 0 else { return 1 }
            ready.say()
            while true { pause() }
        }
        _ = try ready.hear()
        recording.table.terminateAll()
        let exit = try recording.finishOne()
        try expect(exit.status == .signaled(.kill, dumpedCore: false), "\(exit)")
        ready.close()
    }
}
