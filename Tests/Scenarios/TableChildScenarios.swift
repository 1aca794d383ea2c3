// SPDX-License-Identifier: Apache-2.0
//
// What a child gets from its parent, what it does not, and what becomes of it without one.

import Forking
import Glibc
import SystemPackage
import TestSupport

let tableChildScenarios = Group(
    "table-child",
    Scenario("child-signals", "what the parent blocked is unblocked in the child", childSignals),
    Scenario("crash-signals", "crash signals have no handler in the child, unless asked for", crashSignals),
    Scenario("child-output", "the parent's buffer is not doubled, the child's print is not lost", childOutput),
    Scenario("child-descriptors", "the child has no listener, table or pidfd of its parent's", childDescriptors),
    Scenario("nested-tables", "a child makes a table of its own and forks", eachWay(nestedTables)),
    Scenario("parents-table-in-child", "a child that uses its parent's table traps and says so", eachWay(parentsTable)),
    Scenario(
        "parents-table-dropped-in-child", "a child that lets go of its parent's table keeps its own descriptors",
        parentsTableDropped),
    Scenario(
        "parents-table-replaced-in-child", "a child that puts its own table in the place of its parent's keeps it",
        eachWay(parentsTableReplaced)),
    Scenario(
        "parent-killed", "children die with a parent that got SIGKILL, unless they are to stay", eachWay(parentKilled))
)

/// The mask is empty, whatever is blocked here; dispositions are the parent's.
private func childSignals() throws {
    setBlocked(SIGUSR1, true)
    signal(SIGUSR2, SIG_IGN)
    let recording = try RecordingTable(reaping: .signal)
    try expect(isBlocked(SIGCHLD), "the table did not block SIGCHLD")
    try recording.table.fork {
        if isBlocked(SIGCHLD) || disposition(of: SIGCHLD) != 0 { return 1 }
        if disposition(of: SIGUSR2) != 1 { return 2 }
        return (Int32(1)...31).contains(where: isBlocked) ? 3 : 0
    }
    let exit = try recording.finishOne()
    try expect(exit.isSuccess, "1: SIGCHLD; 2: what the host had set; 3: too much blocked: \(exit)")
    try expect(isBlocked(SIGUSR1) && !isBlocked(SIGTERM) && isBlocked(SIGCHLD), "the parent's mask was changed")
    setBlocked(SIGUSR1, false)
    signal(SIGUSR2, SIG_DFL)
}

/// Swift's own backtrace hangs on a handler such as this one.
private func crashSignals() throws {
    for number in [SIGSEGV, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE] { signal(number) { _ in _exit(33) } }
    signal(SIGUSR1) { _ in _exit(34) }
    let recording = try RecordingTable()
    var options = ChildOptions()
    for number in [SIGSEGV, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE] {
        options.printsCrashBacktrace = false
        try recording.table.fork(options: options) { raise(number) }
        try recording.finish()
        let expected = ExitStatus.signaled(Signal(rawValue: number), dumpedCore: false)
        try expect(recording.exits.last?.status == expected, "the handler ran: \(recording.exits)")

        options.printsCrashBacktrace = true
        try recording.table.fork(options: options) { raise(number) }
        try recording.finish()
        try expect(recording.exits.last?.status == .exited(code: 33), "the handler did not run: \(recording.exits)")
    }
    try recording.table.fork { raise(SIGUSR1) }
    try recording.finish()
    try expect(recording.exits.last?.status == .exited(code: 34), "the host's own handler is gone: \(recording.exits)")
    for number in [SIGSEGV, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGUSR1] { signal(number, SIG_DFL) }
}

/// What the parent has in its buffer comes once, and first; what the child prints comes.
private func childOutput() throws {
    let channel = try Channel()
    fflush(nil)
    let stdout = dup(1)
    dup2(channel.ends.write, 1)
    print("parent,", terminator: "")
    let recording = try RecordingTable()
    try recording.table.fork {
        print("child,", terminator: "")
        return 0
    }
    try recording.finish()
    print("parent again")
    fflush(nil)
    dup2(stdout, 1)
    close(stdout)
    channel.closeWrite()
    var text = ""
    while let byte = try channel.hear() { text.append(Character(Unicode.Scalar(byte))) }
    channel.closeRead()
    try expect(text == "parent,child,parent again\n", "written was '\(text)'")
}

/// Listener, tables and pidfds are the parent's; whatever else is open is the child's too, as after any fork.
private func childDescriptors() throws {
    let before = openDescriptors()
    let listener = try Listener(SocketAddress(parsing: "127.0.0.1:0"))
    let recording = try RecordingTable()
    let second = try RecordingTable(reaping: .pidfd)
    try second.table.fork(liveOn)
    let own = open("/dev/null", O_RDONLY)
    let opened = openDescriptors().filter { !before.contains($0) }
    try expect(opened.count >= 8, "a listener, two tables, a pidfd and our own: \(opened)")
    for table in [recording.table, second.table] {
        try table.fork { openDescriptors() == (before + [Int(own)]).sorted() ? 0 : 1 }
    }
    try recording.finish()
    try eventually("a child is left") {
        second.table.collect()
        return second.table.count == 1
    }
    for exit in recording.exits + second.exits {
        try expect(exit.isSuccess, "the child has more open than \(before) and \(own): \(exit)")
    }
    try expect(openDescriptors() == (before + opened).sorted(), "the parent's are gone")
    second.table.killAll()
    try second.finish()
    close(own)
    _ = consume listener
}

/// A child is a process like any other, and may have children.
private func nestedTables(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(reaping: way)
    func generation(_ left: Int32, _ code: Int32) -> Int32 {
        guard left > 0 else { return code }
        do {
            let inner = try RecordingTable(limit: 2, reaping: way)
            try inner.table.fork { generation(left - 1, code + 1) }
            try inner.table.fork { 90 }
            var statuses = Set(try inner.finish().map(\.status))
            guard statuses.remove(.exited(code: 90)) != nil, case .exited(let code)? = statuses.first else { return 91 }
            return code
        } catch {
            return 92
        }
    }
    try recording.table.fork { generation(3, 20) }
    let exit = try recording.finishOne()
    try expect(exit.status == .exited(code: 23), "\(exit)")
}

/// Its siblings are not its children: each use traps, in the child alone, and says why.
private func parentsTable(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(reaping: way)
    let table = recording.table
    let sibling = try table.fork(liveOn)
    let uses: [() -> Void] = [
        { _ = table.count },
        { _ = table.isFull },
        { _ = table.children },
        { table.collect() },
        { _ = try? table.wait(atMost: .zero) },
        { _ = try? table.fork { 0 } },
        { table.signal(.kill, to: sibling) },
        { table.signalAll(.kill) },
        { table.terminate(sibling) },
        { table.terminateAll() },
        { table.killAll() },
    ]
    for (index, use) in uses.enumerated() {
        let stderr = try Channel()
        let pid = try table.fork {
            dup2(stderr.ends.write, 2)
            use()
            return 0
        }
        stderr.closeWrite()
        var text = ""
        while let byte = try stderr.hear() { text.append(Character(Unicode.Scalar(byte))) }
        stderr.closeRead()
        try expect(text.contains("a child used the table of its parent"), "use \(index) said '\(text)'")
        try eventually("the child of use \(index) is left") {
            table.collect()
            return table.count == 1
        }
        guard recording.exits.last?.pid == pid, case .signaled(let signal, _)? = recording.exits.last?.status,
            [.illegalInstruction, .trap].contains(signal)
        else { throw Failure("use \(index) ended as \(recording.exits)") }
    }
    try expect(Process(sibling).map { !$0.isZombie } ?? false, "the sibling was touched")
    table.killAll()
    try recording.finish()
}

/// The numbers of what the parent had open may be the child's own descriptors by then.
private func parentsTableDropped() throws {
    let recording = try RecordingTable(reaping: .signal)
    var second: RecordingTable? = try RecordingTable(reaping: .pidfd)
    try second!.table.fork(liveOn)
    try recording.table.fork {
        var own: [Int32] = []
        while case let descriptor = open("/dev/null", O_RDONLY), descriptor >= 0 { own.append(descriptor) }
        second = nil
        return own.allSatisfy { fcntl($0, F_GETFD) >= 0 } ? 0 : 1
    }
    let exit = try recording.finishOne()
    try expect(exit.isSuccess, "letting go of the parent's table closed the child's descriptors: \(exit)")
    try expect(second!.table.count == 1, "the parent's table is gone")
    second!.table.killAll()
    try second!.finish()
}

/// A child's own table gets the numbers of the parent's descriptors, which were closed; then the parent's goes away.
private func parentsTableReplaced(_ way: ChildTable.Reaping) throws {
    var table: ChildTable? = try ChildTable(maxChildren: 1, reaping: way)
    let recording = try RecordingTable(reaping: .pidfd)
    try recording.table.fork {
        guard let own = try? ChildTable(maxChildren: 1, reaping: way) else { return 1 }
        table = own
        guard fcntl(own.descriptor.rawValue, F_GETFD) >= 0 else { return 2 }
        var status: ExitStatus?
        own.onExit = { status = $0.status }
        guard (try? own.fork { 7 }) != nil, (try? own.wait(atMost: .seconds(30))) == true else { return 3 }
        return status == .exited(code: 7) ? 0 : 4
    }
    let exit = try recording.finishOne()
    try expect(exit.isSuccess, "2: the child's own was closed; 3: it does not work; 4: it missed an end: \(exit)")
    withExtendedLifetime(table) {}
}

/// SIGKILL gives a parent no time for anything: the kernel ends its children, but for those that are to stay.
private func parentKilled(_ way: ChildTable.Reaping) throws {
    let (reports, stayersReports, gate) = (try Channel(), try Channel(), try Channel())
    let recording = try RecordingTable(reaping: way)
    let parent = try recording.table.fork {
        var stays = ChildOptions()
        stays.diesWithParent = false
        guard let table = try? ChildTable(maxChildren: 2, reaping: way) else { return 1 }
        let children = [
            try? table.fork {
                stayersReports.closeWrite()
                reports.say()
                return liveOn()
            },
            try? table.fork(options: stays) {
                reports.closeWrite()
                stayersReports.say(2)
                gate.waitToBeTold()
                stayersReports.say(3)
                return 0
            },
        ]
        reports.closeWrite()
        stayersReports.closeWrite()
        return children.contains(nil) ? 2 : liveOn()
    }
    reports.closeWrite()
    stayersReports.closeWrite()
    let (first, second) = (try reports.hear(), try stayersReports.hear())
    try expect(first == 1 && second == 2, "the children do not live")
    recording.table.signal(.kill, to: parent)
    try recording.finish()
    let end = try reports.hear()
    try expect(end == nil, "the child has outlived its parent")
    gate.say()
    let reply = try stayersReports.hear()
    try expect(reply == 3, "the child that was to stay has not")
    reports.closeRead()
    stayersReports.closeRead()
    gate.close()
}
