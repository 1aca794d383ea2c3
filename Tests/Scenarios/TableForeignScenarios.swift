// SPDX-License-Identifier: Apache-2.0
//
// Others in this process have children too, and wait for more than they should.

import Forking
import Glibc
import SystemPackage
import TestSupport

let tableForeignScenarios = Group(
    "table-foreign",
    Scenario("foreign-child", "an unrelated child is still waitable afterwards", eachWay(foreignChildLeftAlone)),
    Scenario(
        "foreign-child-at-limit", "an unrelated child is still waitable afterwards, also at the limit",
        eachWay(foreignChildAtLimit)),
    Scenario("foreign-zombie-in-front", "an unrelated zombie hides none of our exits", eachWay(foreignZombieInFront)),
    Scenario("reaped-by-another", "our child reaped by somebody else is reported as unknown", eachWay(reapedByAnother)),
    Scenario(
        "reaped-by-another-unannounced", "our child reaped by somebody else, its SIGCHLD merged away",
        reapedByAnotherUnannounced),
    Scenario(
        "reaped-by-the-kernel", "a child that the kernel reaped, without news of it, is found by who waits for all",
        reapedByTheKernel),
    Scenario(
        "pidfd-inherited-by-foreign-child", "a pidfd that a foreign child inherited does not tell of an end twice",
        pidfdInherited),
    Scenario(
        "no-signal-to-lost-child", "no signal goes to the pid, or the group, of a child that somebody else reaped",
        eachWay(noSignalToLost))
)

private func foreignChildLeftAlone(_ way: ChildTable.Reaping) throws {
    let foreign = foreignChild { 72 }
    let recording = try RecordingTable(reaping: way)
    let own = try recording.table.fork { 3 }
    let later = foreignChild { 73 }
    try expectZombie(foreign)
    try expectZombie(later)
    let exits = try recording.finish()
    recording.table.terminateAll()
    recording.table.killAll()
    recording.table.collect()
    try expect(!recording.table.signal(.kill, to: foreign), "a signal was sent to a foreign child")
    try expect(exits.map(\.pid) == [own], "told of others: \(exits)")
    try expectForeign(foreign, endsWith: 72)
    try expectForeign(later, endsWith: 73)
}

/// A foreign exit is no free slot.
private func foreignChildAtLimit(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(limit: 2, reaping: way)
    for _ in 0..<2 { try recording.table.fork(liveOn) }
    let foreign = foreignChild { 72 }
    try expectZombie(foreign)
    recording.table.collect()
    let emptied = try recording.table.wait(atMost: .milliseconds(50))
    try expect(!emptied && recording.table.isFull, "a foreign child's end gave a slot")
    let error = try refusal { try recording.table.fork { 0 } }
    try expect(error == .full(limit: 2), "\(error)")
    recording.table.killAll()
    try recording.finish()
    try expect(recording.exits.count == 2, "\(recording.exits)")
    try expectForeign(foreign, endsWith: 72)
}

/// The kernel names waitable children oldest first, so that a zombie which nobody reaps hides ours. One collect() finds
/// them all the same.
private func foreignZombieInFront(_ way: ChildTable.Reaping) throws {
    let foreign = foreignChild { 72 }
    try expectZombie(foreign)
    let recording = try RecordingTable(limit: 10, reaping: way)
    for round in 1...3 {
        let gate = try Channel()
        for _ in 0..<10 {
            try recording.table.fork {
                gate.waitToBeTold()
                return 4
            }
        }
        gate.close()
        try eventually("not all have ended") { recording.table.children.allSatisfy { Process($0.pid)!.isZombie } }
        recording.table.collect()
        try expect(
            recording.table.count == 0, "round \(round): \(recording.table.count) wait behind the foreign zombie")
    }
    try expect(recording.exits.count == 30, "\(recording.exits.count) exits were told")
    try expectForeign(foreign, endsWith: 72)
}

private func reapedByAnother(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(limit: 2, reaping: way)
    for everyone in [true, false] {
        let lost = try recording.table.fork { 5 }
        try expect(waitpid(everyone ? -1 : lost, nil, 0) == lost, "the child was not there to be taken")
        let living = try recording.table.fork(liveOn)
        try expect(isReadable(recording.table.descriptor.rawValue, within: 10), "nothing to collect")
        recording.table.collect()
        let exit = recording.exits.last
        try expect(exit?.pid == lost && exit?.status == .unknown && exit?.usage == nil, "\(recording.exits)")
        try expect(exit?.reason == .own && exit?.isSuccess == false, "\(recording.exits)")
        try expect(recording.table.children.map(\.pid) == [living], "\(recording.table.children)")
        recording.table.killAll()
        try recording.finish()
    }
    try expect(recording.exits.count == 4, "\(recording.exits)")
}

/// The one SIGCHLD that comes names the first to end; nothing names the second, nor is it there to be found.
private func reapedByAnotherUnannounced() throws {
    let recording = try RecordingTable()
    let first = try recording.table.fork { 1 }
    try expectZombie(first)
    let second = try recording.table.fork { 2 }
    try expect(waitpid(second, nil, 0) == second, "the child was not there to be taken")
    let living = try recording.table.fork(liveOn)
    try eventually("the lost child stays in the table") {
        _ = isReadable(recording.table.descriptor.rawValue, within: 5)
        recording.table.collect()
        return recording.table.count == 1
    }
    let ends = recording.exits.map { [$0.pid: $0.status] }
    try expect(ends == [[first: .exited(code: 1)], [second: .unknown]], "\(recording.exits)")
    recording.table.signal(.kill, to: living)
    try recording.finish()
}

/// Once somebody reaped it, its number may be anybody's; so may, one day, its group's.
private func noSignalToLost(_ way: ChildTable.Reaping) throws {
    let (reports, gate) = (try Channel(), try Channel())
    let recording = try RecordingTable(reaping: way)
    let lost = try recording.table.fork {
        _ = foreignChild {
            reports.say()
            gate.waitToBeTold()
            reports.say(2)
            return 0
        }
        return 0
    }
    _ = try reports.hear()
    try expect(waitpid(lost, nil, 0) == lost, "the child was not there to be taken")
    recording.table.endsGroups = true
    try expect(!recording.table.signal(.kill, to: lost, group: true), "said to have sent a signal")
    recording.table.killAll()
    let exit = try recording.finishOne()
    try expect(exit.status == .unknown, "\(exit)")
    gate.say()
    let reply = try reports.hear()
    try expect(reply == 2, "what was left in its group got a signal")
    reports.close()
    gate.close()
}

/// While SIGCHLD is ignored the kernel reaps children itself, and setting it back to its default throws away what is
/// pending: no news of the end will ever come. Whoever waits for all does not depend on it.
private func reapedByTheKernel() throws {
    let recording = try RecordingTable(reaping: .signal)
    let gate = try Channel()
    let pid = try recording.table.fork {
        gate.waitToBeTold()
        return 5
    }
    signal(SIGCHLD, SIG_IGN)
    gate.close()
    try eventually("it was not reaped") { kill(pid, 0) != 0 }
    signal(SIGCHLD, SIG_DFL)
    try expect(!isReadable(recording.table.descriptor.rawValue, within: 0), "there is news after all")
    let exit = try recording.finishOne()
    try expect(exit.status == .unknown, "\(exit)")
}

/// A foreign child that does not exec has a copy of each pidfd: the end that one told of must not be told for ever.
private func pidfdInherited() throws {
    let recording = try RecordingTable(reaping: .pidfd)
    let (gate, foreignGate) = (try Channel(), try Channel())
    try recording.table.fork {
        foreignGate.close()
        gate.waitToBeTold()
        return 0
    }
    let foreign = foreignChild {
        gate.close()
        foreignGate.waitToBeTold()
        return 72
    }
    gate.close()
    let exit = try recording.finishOne()
    try expect(exit.isSuccess, "\(exit)")
    try expect(!isReadable(recording.table.descriptor.rawValue, within: 0), "an end that was told is told again")
    foreignGate.close()
    try expectForeign(foreign, endsWith: 72)
}
