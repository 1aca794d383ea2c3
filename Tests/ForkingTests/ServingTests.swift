// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("ForkingServer serves")
struct ServingTests {
    @Test("over IPv4, IPv6 and Unix", arguments: ["127.0.0.1:0", "[::1]:0", "unix:"])
    func streams(_ address: String) throws {
        let directory = try TemporaryDirectory()
        let server = try Served("address=\(address == "unix:" ? "unix:\(directory.path)/socket" : address)")
        let clients = try [server.servedClient(), server.servedClient()]
        for client in clients {
            try client.echo("again")
            client.finishSending()
            #expect(try client.receiveAll() == "")
        }
        try server.stop()
    }

    @Test("a child has the connection, and nothing of its parent's")
    func descriptors() throws {
        let server = try Served()
        let neighbour = try server.servedClient()
        let client = try server.client()
        let kinds = try client.ask("open").split(separator: " ").map { $0.split(separator: ":").last! }
        #expect(kinds == ["socket"])
        for one in [client, neighbour] { one.finishSending() }
        try server.stop()
    }

    @Test("what a child prints is not lost, what its parent had not flushed comes once")
    func stdio() throws {
        let server = try Served("unflushed=yes")
        for word in ["one", "two"] {
            let client = try server.client()
            try client.echo("print \(word)")
            client.finishSending()
            try server.end(of: client)
        }
        try server.stop()
        for text in ["the parent's unflushed bytes", "the child printed one", "the child printed two"] {
            #expect(count(of: text, in: server.running.output) == 1, "'\(text)' in: \(server.running.output)")
        }
    }

    @Test("the verify hook: no, or an error, closes the connection without a child")
    func verify() throws {
        let server = try Served("verify=yes")
        let refused = try server.client()
        #expect(try refused.receiveAll() == "")
        try server.event("refused 127.0.0.1:\(refused.port)")
        let failed = try server.client()
        #expect(try failed.receiveAll() == "")
        try server.event("refused 127.0.0.1:\(failed.port), as the verify hook failed: the hook's own")
        try server.servedClient().finishSending()
        try server.stop()
        #expect(count(of: "forked", in: server.running.output) == 1)
    }

    @Test("a connection is closed exactly once in the parent", .needs("strace", package: "strace"))
    func closedOnce() throws {
        let server = try Served("verify=yes")
        let strace = try Running(
            "strace", ["-qq", "-e", "trace=accept4,close,shutdown", "-e", "signal=none", "-p", "\(server.running.pid)"])
        try eventually("strace is not attached") {
            contents(of: "/proc/\(server.running.pid)/status")?.contains("TracerPid:\t\(strace.pid)\n") ?? false
        }
        for _ in 0..<2 { #expect(try server.client().receiveAll() == "") }
        let served = try server.servedClient()
        served.finishSending()
        try server.end(of: served)  // which the parent tells after it has closed its copy
        strace.send(SIGINT)
        try strace.wait()
        let lines = strace.errors.split(separator: "\n")
        #expect(lines.filter { $0.contains("accept4") && !$0.contains("= -1") }.count == 3)
        #expect(lines.filter { $0.contains("close(") }.count == 3, "\(strace.errors)")
        #expect(!strace.errors.contains("EBADF") && !strace.errors.contains("shutdown"))
        try server.stop()
    }

    @Test("the idle hook runs again and again, also with a child that is served")
    func idle() throws {
        let server = try Served("idle=0.1")
        let client = try server.servedClient()
        for _ in 0..<3 { try server.event("idle") }
        client.finishSending()
        try server.end(of: client)
        for _ in 0..<2 { try server.event("idle") }
        try server.stop()
    }

    @Test("the service hook runs in each turn, and there is none without an event")
    func onTurn() throws {
        let server = try Served()
        var reports: [Int] = []
        for _ in 0..<3 {
            server.signal(SIGHUP)
            reports.append(Int(try server.event("hangup").split(separator: " ")[1])!)
        }
        #expect(reports == [1, 1, 1])
        try server.stop()
    }

    @Test("a silent client is sent away after the time-out of reads; stderr is not told", arguments: [true, false])
    func ioTimeout(hasHook: Bool) throws {
        let server = try Served(["io=0.3"] + (hasHook ? ["on-error=say"] : []))
        let client = try server.client()
        #expect(try client.receiveAll() == "")
        if hasHook { try server.event("handling timed out waiting for the peer") }
        #expect(try server.end(of: client).contains("exited with status 1"))
        try server.stop()
        #expect(server.running.errors == "")
    }

    @Test("small writes go out at once, if so wished", arguments: [true, false])
    func noDelay(_ wanted: Bool) throws {
        let server = try Served(wanted ? "nodelay=yes" : "nodelay=no")
        let client = try server.client()
        #expect(try client.ask("nodelay") == (wanted ? "1" : "0"))
        client.finishSending()
        try server.stop()
    }

    @Test("no delay asked for does no harm to a Unix client")
    func noDelayOnUnix() throws {
        let directory = try TemporaryDirectory()
        let server = try Served("nodelay=yes", "address=unix:\(directory.path)/socket")
        try server.servedClient().finishSending()
        try server.stop()
        #expect(server.running.errors == "")
    }

    @Test("a client that has gone is an error for who writes to it, not a signal's death")
    func clientGone() throws {
        let directory = try TemporaryDirectory()
        let server = try Served("address=unix:\(directory.path)/socket", "on-error=say")
        do {
            let client = try server.client()
            try client.echo("sigpipe")  // nothing but the write itself is in its way
            try client.send("flood\n")
            #expect(try client.receive() != "")
        }
        try server.event("handling send: Broken pipe")
        try server.event("exited with status 1")
        try server.stop()
    }

    @Test("a stderr that nobody reads ends neither the server nor what it serves")
    func deaf() throws {
        let server = try Served("deaf=yes")
        let neighbour = try server.servedClient()
        for word in ["throw", "crash abort"] {
            let client = try server.client()
            try client.send(word + "\n")
            #expect(try client.receiveAll() == "")
            let end = try server.end(of: client)
            #expect(end.contains(word == "throw" ? "exited with status 1" : "killed by SIGABRT"), "\(end)")
        }
        try neighbour.echo("still here")
        neighbour.finishSending()
        try server.stop()
    }

    @Test("20 MB written during a storm of signals arrive byte for byte")
    func storm() throws {
        let server = try Served()
        let client = try server.client()
        try client.send("storm\n")
        client.finishSending()
        var received = 0
        var bytes = [UInt8](repeating: 0, count: 65_536)
        while case let count = recv(client.descriptor, &bytes, bytes.count, 0), count > 0 {
            for (offset, byte) in bytes[..<count].enumerated() {
                let index = received + offset
                guard byte == UInt8(truncatingIfNeeded: index &* 31 &+ index >> 12) else {
                    throw Failure("byte \(index) is wrong")
                }
            }
            received += count
        }
        #expect(received == 20 << 20)
        #expect(try server.end(of: client).contains("exited with status 0"))
        try server.stop()
    }

    @Test("Serving, in a process of its own", arguments: try Scenario.of("server"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }

    @Test("Serving while something is short or broken", arguments: try Scenario.of("server-end"))
    func scenarioOfShortage(_ scenario: Scenario) throws { try scenario.pass() }

    private func count(of text: String, in whole: String) -> Int {
        var count = 0
        var rest = whole[...]
        while let place = rest.firstRange(of: text) {
            count += 1
            rest = rest[place.upperBound...]
        }
        return count
    }
}
