// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

/// SIGUSR2, as seen by the control socket, and by Unix sockets' files.
@Suite("An upgrade, and the sockets' files")
struct StatusUpgradeTests {
    private let directory = try! TemporaryDirectory()
    private var control: String { directory.path + "/control" }
    private var address: String { "unix:\(directory.path)/socket" }
    private var program: String { directory.path + "/forkserve" }

    private func shown() throws -> Shown { try Shown(run(forkserveProgram, ["status", "--json", control])) }

    /// A server whose program can be replaced.
    private func served() throws -> Running {
        try run("cp", [forkserveProgram, program])
        let server = try Running(program, ["prefork", "--workers", "2", "--control", control, address])
        _ = try listeningAddress(of: server)
        return server
    }

    /// Has SIGUSR2 start a script instead.
    private func replaceProgram(by script: String) throws {
        try writeFile(program + ".new", Array("#!/bin/sh\n\(script)\n".utf8))
        try run("chmod", ["755", program + ".new"])
        try run("mv", [program + ".new", program])
    }

    private func expectServing(_ server: Running) throws {
        #expect(fileExists(control) && fileExists(directory.path + "/socket"))
        #expect(try shown().pid == server.pid)
        try Client(address).echo("still here")
    }

    @Test("the new program answers, with its own workers, and the files are there until it ends")
    func handedOver() throws {
        let server = try served()
        let old = try shown()
        server.send(SIGUSR2)
        #expect(try server.wait() == 0)
        let new = try shown()
        #expect(new.pid != server.pid && Set(new.processes.map(\.pid)) == Set(children(of: new.pid)))
        #expect(new.processes.count == 2 && Set(new.processes.map(\.pid)).isDisjoint(with: old.processes.map(\.pid)))
        #expect(new.addresses == [address] && fileExists(control))
        try Client(address).echo("from the new one")
        // And once more: what was handed over can be handed on.
        kill(new.pid, SIGUSR2)
        try eventually("not upgraded") { try shown().pid != new.pid }
        let last = try shown().pid
        try eventually("not ended") { Process(new.pid)?.isZombie ?? true }
        #expect(fileExists(control) && fileExists(directory.path + "/socket"))
        kill(last, SIGTERM)
        try eventually("left alive") { server.descendants.allSatisfy { Process($0)?.isZombie ?? true } }
        #expect(!fileExists(control) && !fileExists(directory.path + "/socket"))
    }

    @Test("a new program that has the sockets, and fails, leaves them and their files")
    func fails() throws {
        let server = try served()
        try replaceProgram(by: "exec '\(forkserveProgram)' prefork --control /nonexistent/c '\(address)'")
        server.send(SIGUSR2)
        try server.waitForError("not upgraded: ")
        try expectServing(server)
        try stop(server)
        #expect(!fileExists(control) && !fileExists(directory.path + "/socket"))
    }

    @Test("a new program that is ended before it serves does not end the sockets", .needsTracing)
    func ended() throws {
        let server = try served()
        let arguments = "prefork --workers 1 --control '\(control)' '\(address)'"
        // It can fork no worker.
        try replaceProgram(
            by: "exec strace -D -f -qq -o /dev/null -e trace=clone,clone3,fork "
                + "-e inject=clone,clone3,fork:error=EAGAIN '\(forkserveProgram)' \(arguments)")
        server.send(SIGUSR2)
        try server.waitForError("no worker could be forked")
        for _ in 0..<30 { #expect(try shown().pid == server.pid, "the new one answers already") }
        // Its parent is a go-between, which has the old one's command line.
        let new = server.descendants.first { commandLine(of: $0).hasPrefix(forkserveProgram) }
        kill(try #require(new), SIGTERM)
        try server.waitForError("not upgraded: ")
        try expectServing(server)
        try stop(server)
    }

    private func commandLine(of pid: pid_t) -> String { contents(of: "/proc/\(pid)/cmdline") ?? "" }
}
