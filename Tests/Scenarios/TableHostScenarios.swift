// SPDX-License-Identifier: Apache-2.0
//
// What the process around the table does with SIGCHLD, and with threads.

import Forking
import Glibc
import Synchronization
import TestSupport

let tableHostScenarios = Group(
    "table-host",
    Scenario("sigchld-ignored", "SIGCHLD ignored by whoever started us", eachWay(childSignalIgnored)),
    Scenario("no-child-wait", "SA_NOCLDWAIT set by whoever was here before", eachWay(noChildWait)),
    Scenario("sigchld-handled", "a handler for SIGCHLD: an error that names pidfd", childSignalHandled),
    Scenario("sigchld-blocked", "SIGCHLD blocked by whoever started us stays blocked", childSignalBlocked),
    Scenario("two-tables", "two tables share SIGCHLD: collecting one reaps for both", twoTables),
    Scenario("two-tables-one-dropped", "an observer lets go of another table", twoTablesOneDropped),
    Scenario("table-off-first-thread", "a table on another thread: an error that names pidfd", tableOffFirstThread),
    Scenario(
        "thread-takes-sigchld", "a thread that lets SIGCHLD through: an error that names pidfd", threadTakesChildSignal),
    Scenario("threaded-process", "a process with threads: an error with their count", eachWay(threadedProcess)),
    Scenario(
        "pidfd-in-threaded-host", "pidfds serve a host with threads and a SIGCHLD handler, and leak nothing",
        pidfdInThreadedHost)
)

/// Ignored, as some supervisors and shells leave it, SIGCHLD would make the kernel reap our children itself.
private func childSignalIgnored(_ way: ChildTable.Reaping) throws {
    signal(SIGCHLD, SIG_IGN)
    let recording = try RecordingTable(reaping: way)
    try recording.table.fork { 7 }
    let exit = try recording.finishOne()
    try expect(exit.status == .exited(code: 7), "\(exit)")
    signal(SIGCHLD, SIG_DFL)
}

private func noChildWait(_ way: ChildTable.Reaping) throws {
    var action = sigaction()
    action.sa_flags = SA_NOCLDWAIT
    sigaction(SIGCHLD, &action, nil)
    let recording = try RecordingTable(reaping: way)
    try recording.table.fork { 7 }
    let exit = try recording.finishOne()
    try expect(exit.status == .exited(code: 7), "\(exit)")
    action.sa_flags = 0
    sigaction(SIGCHLD, &action, nil)
}

private func childSignalHandled() throws {
    signal(SIGCHLD) { _ in }
    let handler = disposition(of: SIGCHLD)
    let descriptors = openDescriptors()
    for _ in 0..<2 {
        let text = try invalidity { _ = try ChildTable(maxChildren: 1) }
        try expect(text.contains("SIGCHLD") && text.contains("pidfd"), "the error names no way out: \(text)")
        try expect(disposition(of: SIGCHLD) == handler && handler > 1, "the handler was replaced")
        try expect(!isBlocked(SIGCHLD) && openDescriptors() == descriptors, "a refused table leaves something behind")
    }
    signal(SIGCHLD, SIG_DFL)
    let recording = try RecordingTable()
    try recording.table.fork { 7 }
    let exit = try recording.finishOne()
    try expect(exit.status == .exited(code: 7), "\(exit)")
}

/// Blocked by whoever started us: it stays so for this process after the table, but not for children.
private func childSignalBlocked() throws {
    setBlocked(SIGCHLD, true)
    try {
        let recording = try RecordingTable()
        try recording.table.fork { isBlocked(SIGCHLD) ? 8 : 7 }
        let exit = try recording.finishOne()
        try expect(exit.status == .exited(code: 7), "\(exit)")
    }()
    try expect(isBlocked(SIGCHLD), "somebody else's block was taken away")
    setBlocked(SIGCHLD, false)
}

/// SIGCHLD is for one reader: whoever collects, collects for all.
private func twoTables() throws {
    let (one, other) = (try RecordingTable(), try RecordingTable())
    try expect(one.table.descriptor == other.table.descriptor, "two sources for one signal")
    for (collector, idle) in [(one, other), (other, one)] {
        let first = try collector.table.fork { 1 }
        let second = try idle.table.fork { 2 }
        try expectZombie(first)
        try expectZombie(second)
        collector.table.collect()
        try expect(collector.table.count == 0 && idle.table.count == 0, "not both were collected")
        try expect(collector.exits.last?.pid == first, "\(collector.exits)")
        try expect(collector.exits.last?.status == .exited(code: 1), "\(collector.exits)")
        try expect(idle.exits.last?.pid == second && idle.exits.last?.status == .exited(code: 2), "\(idle.exits)")
        let stranger = try idle.table.fork(liveOn)
        try expect(!collector.table.signal(.kill, to: stranger), "a table has signalled another's child")
        try expect(!collector.table.terminate(stranger), "a table has ended another's child")
        idle.table.killAll()
        try idle.finish()
    }
    try expect(one.exits.count == 3 && other.exits.count == 3, "\(one.exits) \(other.exits)")
}

/// An observer may let go of another table, even of one that has something to tell.
private func twoTablesOneDropped() throws {
    let table = try ChildTable(maxChildren: 2)
    var others = [
        try ChildTable(maxChildren: 2) { _ in fatalError("told after it was dropped") }, try ChildTable(maxChildren: 2),
    ]
    var told = 0
    table.onExit = { _ in
        told += 1
        others = []
    }
    let gone = try others[0].fork { 1 }
    let first = try table.fork { 2 }
    try expectZombie(gone)
    try expectZombie(first)
    table.collect()
    try expect(told == 1 && others.isEmpty, "told \(told) times")
    try table.fork { 3 }
    let emptied = try table.wait(atMost: .seconds(20))
    try expect(emptied && told == 2, "the table that stays does not go on: \(told)")
}

private func tableOffFirstThread() throws {
    let answers = Mutex<[String]>([])
    func tryThere() {
        onAnotherThread {
            let answer: String
            do {
                answer = try invalidity { _ = try ChildTable(maxChildren: 1) }
            } catch {
                answer = "\(error)"
            }
            answers.withLock { $0.append(answer) }
        }
    }
    tryThere()
    let first = try ChildTable(maxChildren: 1)
    withExtendedLifetime(first) { tryThere() }
    try expect(answers.withLock(\.count) == 2, "not two answers")
    for answer in answers.withLock(\.self) {
        try expect(answer.contains("first thread") && answer.contains("pidfd"), "no way out is named: \(answer)")
    }
}

/// A thread that lets SIGCHLD through would swallow it: an exit would be noticed by luck.
private func threadTakesChildSignal() throws {
    let descriptors = openDescriptors()
    try besideAThread {
        let text = try invalidity { _ = try ChildTable(maxChildren: 1) }
        try expect(text.contains("does not block SIGCHLD") && text.contains("pidfd"), "no way out is named: \(text)")
        try expect(!isBlocked(SIGCHLD), "a refused table leaves SIGCHLD blocked")
    }
    try expect(openDescriptors() == descriptors, "a refused table leaves a descriptor")
    setBlocked(SIGCHLD, true)
    try besideAThread {
        setBlocked(SIGCHLD, false)
        let recording = try RecordingTable()
        var options = ChildOptions()
        options.allowsThreads = true
        try recording.table.fork(options: options) { 7 }
        let exit = try recording.finishOne()
        try expect(exit.status == .exited(code: 7), "\(exit)")
    }
}

private func threadedProcess(_ way: ChildTable.Reaping) throws {
    let table = try ChildTable(maxChildren: 1, reaping: way)
    try besideAThread {
        try besideAThread {
            let error = try refusal { try table.fork { 0 } }
            try expect(error == .threads(count: 3), "\(error)")
            let text = "\(error)"
            try expect(text.contains("3 threads") && text.contains("fork before"), "no way out is named: \(text)")
        }
        let error = try refusal { try table.fork { 0 } }
        try expect(error == .threads(count: 2), "\(error)")
    }
    try expect(table.count == 0, "a slot is taken")
    try expectNoChildren()
    // The threads have ended: joined, they may still be there for a moment.
    try eventually("the process still counts as threaded") { (try? table.fork { 0 }) != nil }
    let emptied = try table.wait(atMost: .seconds(20))
    try expect(emptied, "the child is left")
}

/// What a host with threads and signals of its own asks for.
private func pidfdInThreadedHost() throws {
    signal(SIGCHLD) { _ in }
    let handler = disposition(of: SIGCHLD)
    try besideAThread {
        let recording = try RecordingTable(limit: 20, reaping: .pidfd)
        let descriptors = openDescriptors()
        var options = ChildOptions()
        options.allowsThreads = true
        for round in 0..<20 {
            for code in Int32(0)..<8 { try recording.table.fork(options: options) { code } }
            try recording.finish()
            try expect(recording.exits.count == 8 * (round + 1), "\(recording.exits.count) in round \(round)")
            try expect(openDescriptors() == descriptors, "before \(descriptors), after \(openDescriptors())")
        }
        let codes = Dictionary(grouping: recording.exits, by: \.status).mapValues(\.count)
        try expect(codes.count == 8 && codes.values.allSatisfy { $0 == 20 }, "\(codes)")
        try expect(!isBlocked(SIGCHLD) && disposition(of: SIGCHLD) == handler, "the host's handling was changed")
    }
    signal(SIGCHLD, SIG_DFL)
}
