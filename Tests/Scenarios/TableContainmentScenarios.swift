// SPDX-License-Identifier: Apache-2.0
//
// What children leave behind, in a table that contains it.

import Forking
import Glibc
import TestSupport

let tableContainmentScenarios: [String: @Sendable () throws -> Void] = [
    "left-behind": { for way in [ChildTable.Reaping.signal, .pidfd] { try leftBehind(way) } },
    "left-behind-in-time": { for way in [ChildTable.Reaping.signal, .pidfd] { try leftBehindInTime(way) } },
]

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
    guard case .full = try refusal({ try table.fork { 0 } }) else { throw Failure("another was forked") }
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
    options.timeLimit = .milliseconds(300)
    options.killAfter = .milliseconds(100)
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
    try expect(recording.exits[1].reason == .timeLimit, "\(recording.exits)")
}
