// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("ForkingServer: a crash costs one client")
struct CrashTests {
    /// What the client asks for, and how the end is reported. A trap is SIGILL or SIGTRAP, as the processor has it.
    static let crashes = [
        ("index", ["SIGILL", "SIGTRAP"]), ("overflow", ["SIGILL", "SIGTRAP"]), ("nil", ["SIGILL", "SIGTRAP"]),
        ("fatalError", ["SIGILL", "SIGTRAP"]), ("segv", ["killed by SIGSEGV"]), ("abort", ["killed by SIGABRT"]),
        ("stack", ["killed by SIGSEGV"]), ("status", ["exited with status 7"]),
        ("memory", ["SIGILL", "SIGTRAP", "SIGABRT", "SIGSEGV"]),
    ]

    @Test("and the neighbours nothing", arguments: crashes)
    func crash(_ cause: String, _ endings: [String]) throws {
        let server = try Served()
        let neighbour = try server.servedClient()
        let client = try server.servedClient()
        try client.send("crash \(cause)\n")
        #expect(try client.receiveAll() == "")
        let end = try server.end(of: client)
        #expect(endings.contains(where: end.contains), "\(end)")
        #expect(duration(in: end) < 60)
        try neighbour.echo("still here")
        try server.servedClient().finishSending()
        neighbour.finishSending()
        try server.stop()
    }

    @Test("an endless loop ends at its time limit, and so is it reported")
    func endlessLoop() throws {
        let server = try Served("limit=2")
        let neighbour = try server.servedClient()
        neighbour.finishSending()
        let client = try server.servedClient()
        try client.send("crash loop\n")
        #expect(try client.receiveAll() == "")
        let end = try server.end(of: client)
        #expect(end.contains("killed by SIGTERM at its time limit"), "\(end)")
        #expect(duration(in: end) >= 2)
        try server.servedClient().finishSending()
        try server.stop()
    }

    @Test("an endless loop that ignores SIGTERM is killed some time later")
    func stubbornLoop() throws {
        let server = try Served("limit=0.5", "kill=0.3")
        let client = try server.client()
        try client.echo("ignore")
        try client.send("crash loop\n")
        #expect(try client.receiveAll() == "")
        let end = try server.end(of: client)
        #expect(end.contains("killed by SIGKILL at its time limit"), "\(end)")
        #expect(duration(in: end) >= 0.8)
        try server.stop()
    }

    @Test("what the child started dies with it at its time limit, though its leader died first")
    func groupAtTimeLimit() throws {
        let server = try Served("limit=1")
        let client = try server.client()
        let helper = try #require(pid_t(client.ask("helper stubborn")))
        #expect(try server.end(of: client).contains("killed by SIGTERM at its time limit"))
        try eventually("the helper lives on") { !isAlive(helper) }
        try server.stop()
    }

    @Test("in service a child's helpers live on after its normal end")
    func helperInService() throws {
        let server = try Served()
        let client = try server.client()
        let helper = try #require(pid_t(client.ask("helper")))
        client.finishSending()
        #expect(try server.end(of: client).contains("exited with status 0"))
        #expect(isAlive(helper))
        kill(helper, SIGKILL)
        try server.stop()
    }

    @Test("no backtrace, unless wanted", arguments: [false, true])
    func backtraces(_ wanted: Bool) throws {
        let server = try Served(
            wanted ? "backtraces=yes" : "backtraces=no", environment: ["SWIFT_BACKTRACE": "enable=yes,color=no"])
        let client = try server.servedClient()
        try client.send("crash index\n")
        #expect(try client.receiveAll() == "")
        #expect(try server.end(of: client).contains("killed by SIG"))
        try server.stop()
        // The message of the trap itself comes either way.
        #expect(server.running.errors.contains("Index out of range"))
        #expect(server.running.errors.contains("rogram crashed") == wanted, "\(server.running.errors)")
    }

    @Test("a handler that throws: the hook runs in the child, status 1, serving goes on")
    func throwing() throws {
        let server = try Served("on-error=say")
        let client = try server.servedClient()
        try client.send("throw\n")
        #expect(try client.receiveAll() == "")
        try server.event("handling the handler's own error")
        #expect(try server.end(of: client).contains("exited with status 1"))
        try server.servedClient().finishSending()
        try server.stop()
    }

    @Test("a hook for errors that throws itself still ends its child")
    func throwingTwice() throws {
        let server = try Served("on-error=throw")
        let client = try server.servedClient()
        try client.send("throw\n")
        #expect(try client.receiveAll() == "")
        #expect(try server.end(of: client).contains("exited with status 1"))
        try server.servedClient().finishSending()
        try server.stop()
        #expect(server.running.output.split(separator: "\n").filter { $0.contains("serving on") }.count == 1)
    }

    @Test("by default an error is a line on stderr, with the peer")
    func defaultError() throws {
        let server = try Served()
        let client = try server.servedClient()
        try client.send("throw\n")
        try server.running.waitForError("error while serving 127.0.0.1:\(client.port): the handler's own error\n")
        try server.stop()
    }

    private func duration(in end: String) -> Double {
        let words = end.split(separator: " ")
        return words.lastIndex(of: "after").flatMap { Double(words[$0 + 1]) } ?? .infinity
    }
}
