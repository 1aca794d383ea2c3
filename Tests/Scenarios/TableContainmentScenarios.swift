// SPDX-License-Identifier: Apache-2.0
//
// What children leave behind, in a table that contains it.

import Forking
import Glibc
import SystemPackage
import TestSupport

let tableContainmentScenarios = Group(
    "table-containment",
    Scenario(
        "left-behind", "it has a place, is ended with the table, and is not mistaken for children of others",
        eachWay(leftBehind)),
    Scenario("left-behind-in-time", "it is found by itself, and has a time limit", eachWay(leftBehindInTime)),
    Scenario(
        "left-behind-is-waited-for", "who waits for all waits for it, and it is found once",
        eachWay(leftBehindIsWaitedFor)),
    Scenario(
        "descendants-are-told", "a signal that is to end a child reaches what has left its session",
        eachWay(descendantsAreTold)),
    Scenario(
        "descendants-outlive-their-child", "what was to end with a child, and does not, is ended",
        eachWay { way in
            for late in [false, true] { try descendantsOutliveTheirChild(way, late: late) }
        }),
    Scenario("left-behind-by-the-killed", "it ends with a parent that is killed", eachWay(leftBehindByTheKilled))
)

let tableContainmentScenariosAsRoot = Group(
    "table-containment-as-root",
    Scenario(
        "no-process-for-the-watcher", "without a process to see to its end nothing is made", noProcessForTheWatcher)
)

private func contained() -> ChildOptions {
    var options = ChildOptions()
    options.containment = .descendants
    return options
}

/// A process without a parent has its child's place, and ends with the table; one that others forked is not touched.
private func leftBehind(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(limit: 1, reaping: way)
    let table = recording.table
    let gate = try Channel()
    let foreign = foreignChild {
        gate.waitToBeTold()
        return 7
    }
    let child = try table.fork(options: contained()) {
        _ = foreignChild {
            setsid()
            return liveOn()
        }
        return 0
    }
    try eventually("the child has not ended") {
        table.collect()
        return recording.exits.contains { $0.pid == child }
    }
    try expect(table.isFull, "it has no place")
    let left = table.children
    try expect(left.count == 1 && left[0].isLeftover && left[0].pid != child, "\(left)")
    guard case .full = try refusal({ try table.fork { 0 } }).detail else { throw Failure("another was forked") }
    table.terminateAll()
    try recording.finish()
    let last = recording.exits.last
    try expect(last?.pid == left[0].pid && last?.isLeftover == true && last?.reason == .stopped, "\(recording.exits)")
    gate.say()
    try expectForeign(foreign, endsWith: 7)
    gate.close()
}

/// It is found without anybody asking, and may live for as long as a child may.
private func leftBehindInTime(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(reaping: way)
    var options = contained()
    options.timeout = .milliseconds(300)
    options.killTimeout = .milliseconds(100)
    try recording.table.fork(options: options) {
        _ = foreignChild {
            setsid()
            signal(SIGTERM, SIG_IGN)
            return liveOn()
        }
        return 0
    }
    var descriptor = pollfd(fd: recording.table.descriptor.rawValue, events: Int16(POLLIN), revents: 0)
    let end = now() + 60
    while recording.exits.count < 2 {
        try expect(now() < end && poll(&descriptor, 1, 60_000) == 1, "it lives on: \(recording.exits)")
        recording.table.collect()
    }
    try expect(recording.exits[0].isSuccess && recording.exits[1].isLeftover, "\(recording.exits)")
    try expect(recording.exits[1].reason == .timeout, "\(recording.exits)")
}

/// Who waits for all waits for it, also if it was not found before; and it is found once, however often it is looked
/// for.
private func leftBehindIsWaitedFor(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(reaping: way)
    let table = recording.table
    let gate = try Channel()
    let child = try table.fork(options: contained()) {
        _ = foreignChild {
            setsid()
            gate.waitToBeTold()
            return 0
        }
        return 0
    }
    try expectZombie(child)
    try expect(try !table.wait(atMost: .milliseconds(200)), "it is not waited for")
    for _ in 0..<3 {
        try table.fork(options: contained()) { 0 }
        _ = try table.wait(atMost: .milliseconds(300))
    }
    try expect(table.children.count == 1 && table.children[0].isLeftover, "\(table.children)")
    gate.close()
    try recording.finish()
    try expect(recording.exits.count == 5, "\(recording.exits)")
}

/// A signal that is to end a child reaches what has left its group and session, though the child itself is deaf.
private func descendantsAreTold(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(reaping: way)
    let words = try Channel()
    var options = contained()
    options.killTimeout = .seconds(1000)
    let child = try recording.table.fork(options: options) {
        signal(SIGTERM, SIG_IGN)
        _ = foreignChild {
            setsid()
            var set = sigset_t()
            sigemptyset(&set)
            sigaddset(&set, SIGTERM)
            pthread_sigmask(SIG_BLOCK, &set, nil)
            signal(SIGTERM, SIG_DFL)
            words.say(1)
            var number: Int32 = 0
            sigwait(&set, &number)
            words.say(2)
            return 0
        }
        return liveOn()
    }
    try expect(try words.hear() == 1, "it has not begun")
    recording.table.terminate(child)
    try expect(isReadable(words.ends.read, within: 60), "it was not told")
    recording.table.killAll()
    try recording.finish()
    words.close()
}

/// What was to end with a child, and does not, is ended: be it there as that was told, or made after that.
private func descendantsOutliveTheirChild(_ way: ChildTable.Reaping, late: Bool) throws {
    let recording = try RecordingTable(reaping: way)
    let (words, daemons) = (try Channel(), try Channel())
    var options = contained()
    options.killTimeout = .milliseconds(300)
    func daemon() -> Int32 {
        setsid()
        signal(SIGTERM, SIG_IGN)
        daemons.say()
        return liveOn()
    }
    let child = try recording.table.fork(options: options) {
        var set = sigset_t()
        sigemptyset(&set)
        sigaddset(&set, SIGTERM)
        pthread_sigmask(SIG_BLOCK, &set, nil)
        if !late { _ = foreignChild(daemon) }
        if !late { _ = try? daemons.hear() }
        words.say()
        var number: Int32 = 0
        sigwait(&set, &number)
        if late { _ = foreignChild(daemon) }
        return 0
    }
    try expect(try words.hear() == 1, "it has not begun")
    if late { recording.table.terminateAll() } else { recording.table.terminate(child) }
    try recording.finish()
    try expect(recording.exits.map(\.isLeftover) == [false, true], "\(recording.exits)")
    try expect(recording.exits[1].status == .signaled(.kill, dumpedCore: false), "\(recording.exits)")
    words.close()
    daemons.close()
}

/// Children, and those whom they have put into sessions of their own, end with a parent that is killed.
private func leftBehindByTheKilled(_ way: ChildTable.Reaping) throws {
    let living = try Channel()
    let parent = foreignChild {
        guard let table = try? ChildTable(maxChildren: 4, reaping: way) else { return 1 }
        for _ in 0..<4 {
            _ = try? table.fork(options: contained()) {
                _ = foreignChild {
                    setsid()
                    living.say()
                    return liveOn()
                }
                living.say()
                return liveOn()
            }
        }
        return liveOn()
    }
    close(living.ends.write)
    for _ in 0..<8 { try expect(try living.hear() == 1, "not all were started") }
    kill(parent, SIGKILL)
    waitpid(parent, nil, 0)
    try expect(isReadable(living.ends.read, within: 60), "some live on")
    try expect(try living.hear() == nil, "more were started")
    close(living.ends.read)
}

/// A child that nobody could end with this process is not made, and can be once there are processes again.
private func noProcessForTheWatcher() throws {
    let table = try ChildTable(maxChildren: 4, reaping: .pidfd)
    try becomeUser(withProcesses: 1)
    for _ in 0..<2 {
        let error = try refusal { try table.fork(options: contained()) { 0 } }
        guard error == .system(call: "fork", .resourceTemporarilyUnavailable) else { throw Failure("\(error)") }
    }
    try expect(table.count == 0 && children(of: getpid()).isEmpty, "something was made")
}
