// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

/// A shell that heeds no SIGTERM, nor do those it starts; it says so on its connection, and then waits for ever.
private let stubborn = ["sh", "-c", "trap '' TERM; sleep 1000 & echo ready; wait"]

@Suite("Stopping forkserve")
struct StoppingTests {
    @Test("SIGTERM and SIGINT drain: clients are served to their end, new ones are not", arguments: [SIGTERM, SIGINT])
    func drains(signal: Int32) throws {
        let (server, address) = try forkserve(["echo", "--drain-timeout", "50", "127.0.0.1:0"])
        let client = try Client(address)
        try client.echo("before")
        server.send(signal)
        try eventually("still listening") { (try? Client(address)) == nil }
        try client.echo("while it drains")
        client.finishSending()
        #expect(try client.receiveAll() == "")
        #expect(try server.wait() == 0)
        try server.expectNothingAlive()
    }

    @Test(
        "clients that wait for their turn at a stop get it while the server drains, and nobody else does",
        arguments: [["echo"], ["exec"], ["prefork", "--workers", "1"]])
    func waiting(_ command: [String]) throws {
        let limit = command == ["echo"] || command == ["exec"] ? ["--max-children", "1"] : []
        let program = command == ["exec"] ? ["--", "sh", "-c", "read line; echo $line"] : []
        let (server, address) = try forkserve(
            command + limit + ["--verbose", "--drain-timeout", "50", "127.0.0.1:0"] + program)
        let clients = try (0..<4).map { _ in try Client(address) }
        // All but the first wait in the kernel's queue.
        try eventually("nobody is served") { acceptQueue(of: address) == 3 }
        server.send(SIGTERM)
        try server.waitForError("stopping: draining")
        for (number, client) in clients.enumerated() {
            try client.send("client \(number)\n")
            client.finishSending()
            #expect(try client.receiveAll() == "client \(number)\n")
        }
        // It says so before its listeners close, and a worker takes whoever comes until it is told.
        try eventually("still listening") { (try? Client(address)) == nil }
        #expect(try server.wait() == 0)
        try server.expectNothingAlive()
    }

    /// How many clients wait to be accepted, as the kernel says.
    private func acceptQueue(of address: String) -> Int? {
        let port = String(UInt16(address.split(separator: ":").last!)!, radix: 16, uppercase: true)
        let suffix = ":" + String(repeating: "0", count: 4 - port.count) + port
        for line in (contents(of: "/proc/net/tcp") ?? "").split(separator: "\n") {
            let fields = line.split(separator: " ")
            guard fields.count > 4, fields[1].hasSuffix(suffix), fields[3] == "0A" else { continue }
            return fields[4].split(separator: ":").last.flatMap { Int($0, radix: 16) }
        }
        return nil
    }

    @Test("a second signal terminates at once")
    func secondSignal() throws {
        let (server, address) = try forkserve(["echo", "--drain-timeout", "1000", "127.0.0.1:0"])
        let client = try Client(address)
        try client.echo("hello")
        server.send(SIGTERM)
        try eventually("still listening") { (try? Client(address)) == nil }
        server.send(SIGINT)
        #expect(try client.receiveAll() == "")
        #expect(try server.wait() == 0)
        try server.expectNothingAlive()
    }

    @Test("--drain-timeout and --kill-timeout: even who heeds no SIGTERM ends, with what it started")
    func deadlines() throws {
        let options = ["--verbose", "--drain-timeout", "0.2", "--kill-timeout", "0.2"]
        let (server, address) = try forkserve(["exec"] + options + ["127.0.0.1:0", "--"] + stubborn)
        let client = try Client(address)
        #expect(try client.receive() == "ready\n")
        try eventually("no grandchild") { server.descendants.count >= 2 }
        try stop(server)
        #expect(server.errors.contains("killed by SIGKILL on request"), "\(server.errors)")
        for step in ["draining", "terminating", "killing"] { #expect(server.errors.contains("stopping: \(step)")) }
    }

    @Test("with --leave-daemons, what a program that ends by itself leaves in the background outlives a drain")
    func background() throws {
        let (server, address) = try forkserve(
            [
                "exec", "--leave-daemons", "--verbose", "127.0.0.1:0", "--", "sh", "-c",
                "sleep 1000 >/dev/null 2>&1 <&- & echo $!; read line",
            ])
        let client = try Client(address)
        let background = pid_t(try client.receive().dropLast())!
        defer { kill(background, SIGKILL) }
        server.send(SIGTERM)
        try server.waitForError("draining")  // another client would leave another behind
        client.finishSending()
        #expect(try server.wait() == 0)
        #expect(Process(background).map { !$0.isZombie } ?? false, "it was ended")
        kill(background, SIGKILL)
        try server.expectNothingAlive()
    }

    @Test("a child that is told to end while stopping takes what it started with it")
    func orphans() throws {
        let (server, address) = try forkserve(
            ["exec", "--drain-timeout", "0", "127.0.0.1:0", "--", "sh", "-c", "sleep 1000 >&2 & echo ready; read line"])
        #expect(try Client(address).receive() == "ready\n")
        server.send(SIGTERM)
        #expect(try server.wait() == 0)
        try server.expectNothingAlive()
    }

    @Test("--timeout ends a client that idles, and what was started for it, and no other")
    func timeLimit() throws {
        let (server, address) = try forkserve(
            ["exec", "--verbose", "--timeout", "0.3", "--kill-timeout", "0.2", "127.0.0.1:0", "--"] + stubborn)
        #expect(try Client(address).receiveAll() == "ready\n")
        try server.waitForError("killed by SIGKILL at its time limit after ")
        try eventually("left alive") { server.descendants.isEmpty }
        #expect(try Client(address).receive() == "ready\n")
        try stop(server)
    }

    @Test("a parent that is killed takes its children with it")
    func parentKilled() throws {
        let (server, address) = try forkserve(["echo", "127.0.0.1:0"])
        let client = try Client(address)
        try client.echo("hello")
        server.send(SIGKILL)
        #expect(try client.receiveAll() == "")
        #expect(try server.wait() == -SIGKILL)
        try server.expectNothingAlive()
    }

    @Test("--verbose: a line for each child; SIGUSR1: the table of children")
    func reports() throws {
        let (server, address) = try forkserve(["exec", "--verbose", "127.0.0.1:0", "--", "sh", "-c", "read n; exit $n"])
        let client = try Client(address)
        try eventually("no child") { children(of: server.pid).count == 1 }
        let pid = children(of: server.pid)[0]
        server.send(SIGUSR1)
        try server.waitForError("children: 1 of 40\n")
        try server.waitForError("\(pid)  serving  ")
        try server.waitForError("  127.0.0.1:\(client.port)\n")
        try client.send("7\n")
        #expect(try client.receiveAll() == "")
        try server.waitForError("forkserve: child \(pid), peer 127.0.0.1:")
        try server.waitForError(": exited with status 7 after 0.")
        server.send(SIGUSR1)
        try server.waitForError("children: 0 of 40\n")
        try stop(server)
        #expect(server.errors.contains("forkserve: stopping: draining\n"), "\(server.errors)")
    }

    @Test("a client's end by a signal is said without --verbose too, a good end is not")
    func trouble() throws {
        let (server, address) = try forkserve(["exec", "127.0.0.1:0", "--", "sh", "-c", "read s; kill -$s $$"])
        let client = try Client(address)
        try client.send("0\n")
        #expect(try client.receiveAll() == "")
        let other = try Client(address)
        try other.send("SEGV\n")
        #expect(try other.receiveAll() == "")
        try server.waitForError("killed by SIGSEGV")
        try stop(server)
        #expect(server.errors.filter { $0 == "\n" }.count == 1, "\(server.errors)")
    }
}
