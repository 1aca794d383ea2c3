// SPDX-License-Identifier: Apache-2.0
//
// The table in somebody's loop: its descriptor, and observers that call it back.

import Forking
import Glibc
import SystemPackage
import TestSupport

let tableLoopScenarios = Group(
    "table-loop",
    Scenario("pollable", "the descriptor is readable for an exit and a deadline, and not otherwise", eachWay(pollable)),
    Scenario("idle-is-quiet", "an idle table wakes nobody", idleIsQuiet),
    Scenario("reentrant-fork", "an observer forks again in the full table", eachWay(reentrantFork)),
    Scenario("reentrant-collect", "an observer collects and waits", eachWay(reentrantCollect)),
    Scenario("observer-replaced", "an observer that an observer sets is told of the next end", observerReplaced),
    Scenario("signal-storm-while-waiting", "a signal storm while waiting", eachWay(signalStorm))
)

private func pollable(_ way: ChildTable.Reaping) throws {
    let gate = try Channel()
    let recording = try RecordingTable(reaping: way)
    let table = recording.table
    let descriptor = table.descriptor.rawValue
    try expect(!isReadable(descriptor, within: 0), "readable with nothing to collect")
    try table.fork {
        gate.waitToBeTold()
        return 12
    }
    try expect(!isReadable(descriptor, within: 0), "readable for a child that lives")
    gate.close()
    try expect(isReadable(descriptor, within: 10), "not readable for an exit")
    let collected = now()
    table.collect()
    try expect(table.count == 0 && recording.exits.map(\.status) == [.exited(code: 12)], "\(recording.exits)")
    // A second after an exit it is, once more, for the sweep.
    try expect(!isReadable(descriptor, within: 0) || now() - collected > 0.9, "readable after a collect()")

    var options = ChildOptions()
    options.timeout = .milliseconds(1500)
    options.killTimeout = .seconds(60)
    signal(SIGTERM, SIG_IGN)
    let pid = try table.fork(options: options, liveOn)
    signal(SIGTERM, SIG_DFL)
    let begun = now()
    while table.children.contains(where: { !$0.isEnding }) {
        try expect(isReadable(descriptor, within: 10), "not readable for a deadline")
        table.collect()
    }
    try expect(now() - begun > 1.4, "the deadline came early")
    try expect(table.children.map(\.pid) == [pid], "\(recording.exits)")
    table.killAll()
    try recording.finish()
}

/// Exits leave one sweep behind them, and then nothing.
private func idleIsQuiet() throws {
    let recording = try RecordingTable()
    let living = try recording.table.fork(liveOn)
    try recording.table.fork { 0 }
    let descriptor = recording.table.descriptor.rawValue
    // Its mark can tell of it a moment before its SIGCHLD comes, which would then be one more reason to wake.
    try expect(isReadable(descriptor, within: 10), "the exit is not noticed")
    recording.table.collect()
    try expect(recording.table.count == 1, "the exit is not found")
    try expect(isReadable(descriptor, within: 10), "there was no sweep")
    recording.table.collect()
    try expect(!isReadable(descriptor, within: 1.5), "an idle table wakes its loop")
    recording.table.signal(.kill, to: living)
    try recording.finish()
}

/// An observer that puts a new child in the place of each that ends, in a table with room for one.
private func reentrantFork(_ way: ChildTable.Reaping) throws {
    var codes: [ExitStatus] = []
    let table = try ChildTable(maxChildren: 1, reaping: way)
    var failure: (any Error)?
    table.onExit = { [unowned table] exit in
        codes.append(exit.status)
        guard codes.count < 20 else { return }
        let next = Int32(codes.count)
        do { try table.fork { next } } catch { failure = error }
    }
    try table.fork { 0 }
    let emptied = try table.wait(atMost: .seconds(20))
    if let failure { throw failure }
    try expect(emptied && codes == (0..<20).map { .exited(code: $0) }, "\(codes)")
}

/// An observer that collects, and one that waits, are told of each exit once, and not lost in themselves.
private func reentrantCollect(_ way: ChildTable.Reaping) throws {
    let gate = try Channel()
    var codes: [ExitStatus] = []
    var depth = 0
    let table = try ChildTable(maxChildren: 10, reaping: way)
    table.onExit = { [unowned table] exit in
        depth += 1
        codes.append(exit.status)
        let isThird = codes.count == 3
        table.collect()
        if isThird {
            // The last one ends only now, and this wait tells of it.
            gate.say()
            let emptied = try? table.wait(atMost: .seconds(20))
            if emptied != true { codes = [] }
        }
        depth -= 1
    }
    for code in Int32(0)..<5 { try table.fork { code } }
    try table.fork {
        gate.waitToBeTold()
        return 5
    }
    let emptied = try table.wait(atMost: .seconds(20))
    try expect(emptied && depth == 0, "left at depth \(depth)")
    try expect(codes.count == 6 && Set(codes) == Set((0..<6).map { .exited(code: $0) }), "\(codes)")
    gate.close()
}

/// A handler that runs all the time interrupts every wait there is.
private func signalStorm(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(reaping: way)
    signal(SIGALRM) { _ in }
    func setTimer(_ microseconds: Int) {
        var timer = itimerval()
        timer.it_value.tv_usec = microseconds
        timer.it_interval.tv_usec = microseconds
        setitimer(__itimer_which_t(ITIMER_REAL.rawValue), &timer, nil)
    }
    setTimer(1000)
    defer {
        setTimer(0)
        signal(SIGALRM, SIG_DFL)
    }
    for _ in 0..<5 {
        try recording.table.fork {
            usleep(100_000)
            return 13
        }
        try recording.finish()
    }
    try expect(recording.exits.map(\.status) == Array(repeating: .exited(code: 13), count: 5), "\(recording.exits)")
}

/// What an observer sets is the observer of the very next end.
private func observerReplaced() throws {
    let table = try ChildTable(maxChildren: 3)
    var (first, second) = (0, 0)
    table.onExit = { _ in
        first += 1
        table.onExit = { _ in second += 1 }
    }
    for _ in 0..<3 { try table.fork { 0 } }
    for child in table.children { try eventually("a child lives") { Process(child.pid)?.isZombie ?? true } }
    table.collect()
    try expect((first, second) == (1, 2), "the first was told of \(first), its successor of \(second)")
    table.onExit = { _ in }
}
