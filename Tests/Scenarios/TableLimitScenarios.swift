// SPDX-License-Identifier: Apache-2.0
//
// The limit, and what becomes of a slot when no child comes to fill it.

import Forking
import Glibc
import SystemPackage
import TestSupport

let tableLimitScenarios = Group(
    "table-limit",
    Scenario("limit-checked", "a limit of zero or less is rejected", limitChecked),
    Scenario("full-table", "full at the limit, and a slot comes back after reaping", eachWay(fullTable)),
    Scenario("fork-refused", "fork refused (RLIMIT_NPROC), with recovery", eachWay(forkRefused)),
    Scenario("pidfd-refused", "no descriptor left for a pidfd: an error, and no zombie", pidfdRefused),
    Scenario("options-checked", "options that cannot be are rejected before a slot is taken", optionsChecked)
)

private func limitChecked() throws {
    for limit in [0, -1, Int.min] {
        for way in [ChildTable.Reaping.signal, .pidfd] {
            let text = try invalidity { _ = try ChildTable(maxChildren: limit, reaping: way) }
            try expect(text.contains("\(limit)") && text.contains("at least 1"), text)
        }
    }
    try expect(!isBlocked(SIGCHLD), "SIGCHLD was blocked for a table that is not")
    for limit in [1, Int.max] { _ = try ChildTable(maxChildren: limit) }
}

private func fullTable(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(limit: 3, reaping: way)
    let table = recording.table
    for count in 1...3 {
        try table.fork(liveOn)
        try expect(table.count == count && table.isFull == (count == 3), "\(table.count) of 3, full: \(table.isFull)")
    }
    let untouched = try Channel()
    let error = try refusal {
        try table.fork {
            untouched.say()
            return 0
        }
    }
    try expect(error == .full(limit: 3) && "\(error)".contains("3 of 3"), "\(error)")
    try expect(table.count == 3, "\(table.count) children after a refusal")
    untouched.closeWrite()
    let children = table.children
    try expect(children.map(\.age) == children.map(\.age).sorted(by: >), "not the oldest first: \(children)")
    table.signal(.kill, to: children[0].pid)
    try expect(isReadable(table.descriptor.rawValue, within: 10), "no exit was noticed")
    table.collect()
    try expect(table.count == 2 && !table.isFull, "the slot has not come back")
    let heard = try untouched.hear()
    try expect(heard == nil, "a child was forked beyond the limit")
    untouched.closeRead()
    try table.fork { 0 }
    try expect(table.isFull, "the slot was not taken again")
    table.killAll()
    try recording.finish()
    try expect(recording.exits.count == 4, "\(recording.exits)")
}

/// Root is exempt from RLIMIT_NPROC: be a user that nobody is, but for the right to come back.
private func asUnusedUser(_ body: () throws -> Void) throws {
    let root = getuid() == 0
    if root {
        try expect(setreuid(61_234, uid_t.max) == 0 && seteuid(61_234) == 0, "cannot change the user")
    }
    defer { if root { _ = seteuid(0) + setreuid(0, 0) } }
    try body()
}

private func limitProcesses(to count: rlim_t?) {
    var limit = rlimit()
    let kind = __rlimit_resource_t(__RLIMIT_NPROC.rawValue)
    getrlimit(kind, &limit)
    limit.rlim_cur = count ?? limit.rlim_max
    setrlimit(kind, &limit)
}

private func forkRefused(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(limit: 2, reaping: way)
    let table = recording.table
    try asUnusedUser {
        limitProcesses(to: 0)
        // More often than there are slots: one that stayed taken would be missed.
        for _ in 0..<3 {
            let error = try refusal { try table.fork { 0 } }
            try expect(error == .system(call: "fork", .resourceTemporarilyUnavailable), "\(error)")
            try expect(table.count == 0 && table.children.isEmpty, "\(table.count) in the table after a refusal")
        }
        try expect(!isBlocked(SIGTERM) && isBlocked(SIGCHLD) == (way == .signal), "the mask was not restored")
        limitProcesses(to: nil)
        for code in Int32(1)...2 { try table.fork { code } }
    }
    let statuses = Set(try recording.finish().map(\.status))
    try expect(statuses == [.exited(code: 1), .exited(code: 2)], "\(recording.exits)")
}

/// No descriptor for the pidfd of a child that is there already.
private func pidfdRefused() throws {
    let recording = try RecordingTable(limit: 1, reaping: .pidfd)
    var taken: [Int32] = []
    while case let descriptor = dup(2), descriptor >= 0 { taken.append(descriptor) }
    try expect(errno == EMFILE, "dup ended with \(errno)")
    for _ in 0..<2 {
        let error = try refusal { try recording.table.fork(liveOn) }
        try expect(error == .system(call: "pidfd_open", .tooManyOpenFiles), "\(error)")
        try expect(recording.table.count == 0, "the slot was not given back")
        try expectNoChildren()
    }
    for descriptor in taken { close(descriptor) }
    try recording.table.fork { 6 }
    let exit = try recording.finishOne()
    try expect(exit.status == .exited(code: 6), "\(exit)")
}

private func optionsChecked() throws {
    let table = try ChildTable(maxChildren: 1)
    for limit in [Duration.zero, .seconds(-1)] {
        var options = ChildOptions()
        options.timeout = limit
        _ = try invalidity { try table.fork(options: options) { 0 } }
    }
    var options = ChildOptions()
    options.killTimeout = .nanoseconds(-1)
    _ = try invalidity { try table.fork(options: options) { 0 } }
    try expect(table.count == 0, "a slot is taken")
    try expectNoChildren()
}
