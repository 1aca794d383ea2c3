// SPDX-License-Identifier: Apache-2.0
//
// Children that are another program from the start.

import Forking
import Glibc
import SystemPackage
import TestSupport

let tableProgramScenarios = Group(
    "table-program",
    Scenario("spawned-programs", "spawned programs: statuses, peers, refusals", spawnedPrograms),
    Scenario(
        "spawn-by-signal-traps", "a table that reaps by signal traps when it is to spawn, and says why",
        spawnBySignalTraps)
)

private func shell(_ script: String) -> Program { Program(path: "/bin/sh", arguments: ["sh", "-c", script]) }

private func spawnedPrograms() throws {
    let recording = try RecordingTable(limit: 4, reaping: .pidfd)
    let null = try FileDescriptor.open("/dev/null", .readWrite, options: .closeOnExec)
    let foreign = foreignChild(liveOn)
    let peer = try SocketAddress(parsing: "127.0.0.1:4711")
    let before = openDescriptors()
    let coded = try recording.table.spawn(shell("exit 7"), on: null, peer: peer)
    let killed = try recording.table.spawn(shell("kill -USR2 $$"), on: null)
    try expect(Set(recording.table.children.map(\.pid)) == [coded, killed], "\(recording.table.children)")
    try recording.finish()
    for exit in recording.exits {
        try expect(exit.execError == nil, "\(exit)")
        let expected: ExitStatus = exit.pid == coded ? .exited(code: 7) : .signaled(.userDefinedTwo, dumpedCore: false)
        try expect(exit.status == expected && exit.peer == (exit.pid == coded ? peer : nil), "\(exit)")
    }
    try expect(recording.exits.count == 2, "\(recording.exits)")

    let missing = Program(path: "/no/such/program", arguments: ["x"])
    for _ in 0..<8 {  // no slot is lost by that
        try recording.table.spawn(missing, on: null)
        try recording.finish()
        let exit = recording.exits.last!
        try expect(exit.execError == .noSuchFileOrDirectory && exit.status == .exited(code: 127), "\(exit)")
    }
    try recording.table.fork { 0 }
    try recording.finish()
    try expect(recording.exits.last!.isSuccess && recording.exits.last!.execError == nil, "\(recording.exits.last!)")
    try expect(recording.table.count == 0 && openDescriptors() == before, "a refused program leaves something")

    for _ in 0..<4 { try recording.table.spawn(shell("while :; do read line < /dev/zero; done"), on: null) }
    let full = try refusal { try recording.table.spawn(shell(""), on: null) }
    try expect(full == .full(limit: 4), "\(full)")
    recording.table.terminateAll()
    try recording.finish()
    try expect(recording.exits.dropFirst(2 + 8 + 1).allSatisfy { $0.reason == .stopped }, "\(recording.exits)")
    try expect(Process(foreign).map { !$0.isZombie } ?? false, "the foreign child was signalled")
    kill(foreign, SIGKILL)
    try expect(waitpid(foreign, nil, 0) == foreign, "somebody reaped the foreign child")
    try expect(openDescriptors() == before, "descriptors before \(before), after \(openDescriptors())")
    try null.close()
}

/// Exec would end the mark that tells of the end.
private func spawnBySignalTraps() throws {
    let recording = try RecordingTable()
    let stderr = try Channel()
    try recording.table.fork {
        dup2(stderr.ends.write, 2)
        guard let table = try? ChildTable(maxChildren: 1) else { return 1 }
        _ = try? table.spawn(shell("exit 0"), on: .standardInput)
        return 2
    }
    stderr.closeWrite()
    var text = ""
    while let byte = try stderr.hear() { text.append(Character(Unicode.Scalar(byte))) }
    stderr.closeRead()
    let exit = try recording.finishOne()
    try expect(text.contains("must reap by pidfd"), "it said '\(text)'")
    guard case .signaled(let signal, _) = exit.status, [.illegalInstruction, .trap].contains(signal) else {
        throw Failure("\(exit)")
    }
}
