// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("forkserve prefork: signals, under load")
struct PreforkLifeTests {
    /// A connection that a worker has, with half a request on it.
    private func inFlight(_ address: String) throws -> Client {
        let client = try Client(address)
        try client.send(httpRequest)
        try expect(try client.receive() == httpAnswer, "no answer")
        try client.send("GET / HT")
        return client
    }

    @Test(
        "SIGTERM, SIGINT: what is in flight is answered, new clients are refused at once", arguments: [SIGTERM, SIGINT])
    func drains(signal: Int32) throws {
        let (server, address) = try prefork(["--workers", "8", "--http", "--drain-timeout", "1000"])
        let client = try inFlight(address)
        server.send(signal)
        try eventually("still listening") { (try? Client(address)) == nil }
        try client.send("TP/1.1\r\n\r\n")
        #expect(try client.receiveAll() == lastHTTPAnswer)
        #expect(try server.wait() == 0)
        try server.expectNothingAlive()
        #expect(server.errors == "")
    }

    @Test("SIGTERM to all processes at the same time, as service managers send it", arguments: [true, false])
    func wholeGroup(parentFirst: Bool) throws {
        for _ in 0..<5 {
            let (server, address) = try prefork(["--workers", "2", "--http"])
            let client = try inFlight(address)
            let workers = children(of: server.pid)
            for pid in parentFirst ? [server.pid] + workers : workers + [server.pid] { kill(pid, SIGTERM) }
            try eventually("still listening") { (try? Client(address)) == nil }
            try client.send("TP/1.1\r\n\r\n")
            #expect(try client.receiveAll() == lastHTTPAnswer)
            #expect(try server.wait() == 0)
            try server.expectNothingAlive()
        }
    }

    @Test("a second SIGTERM terminates at once")
    func secondSignal() throws {
        let (server, address) = try prefork(["--workers", "2", "--drain-timeout", "1000"])
        let client = try Client(address)
        try client.echo("hello")
        server.send(SIGTERM)
        try eventually("still listening") { (try? Client(address)) == nil }
        server.send(SIGTERM)
        #expect(try client.receiveAll() == "")
        #expect(try server.wait() == 0)
        try server.expectNothingAlive()
    }

    /// One client alone: nobody else's arrival helps it if a worker that leaves was woken for it.
    @Test("SIGHUP, SIGTTIN and SIGTTOU lose no request", arguments: [(clients: 1, requestsEach: 1), (3, 1), (2, 20)])
    func underLoad(clients: Int, requestsEach: Int) throws {
        let (server, address) = try prefork(["--workers", "3", "--http", "--verbose"])
        let load = Load(address, clients: clients, requestsEach: requestsEach)
        try load.goOn(for: 100)
        for _ in 0..<8 {
            let before = liveChildren(of: server.pid)
            server.send(SIGHUP)
            try eventually("not all were replaced") {
                let there = liveChildren(of: server.pid)
                return there.isDisjoint(with: before) && there.count == 3
            }
            try load.goOn(for: 20)
        }
        for (signal, count) in [(SIGTTIN, 4), (SIGTTOU, 3), (SIGTTOU, 2), (SIGTTOU, 1), (SIGTTOU, 1), (SIGTTIN, 2)] {
            server.send(signal)
            try server.waitForError("\(count) workers from now on")
            try eventually("not \(count) workers") { liveChildren(of: server.pid).count == count }
            try load.goOn(for: 30)
        }
        #expect(load.end() == [])
        try stop(server)
    }

    // MARK: Killing

    @Test("SIGKILL to the parent leaves nobody")
    func parentKilled() throws {
        let (server, address) = try prefork(["--workers", "3"])
        let client = try Client(address)
        try client.echo("hello")
        server.send(SIGKILL)
        #expect(try client.receiveAll() == "")
        #expect(try server.wait() == -SIGKILL)
        try server.expectNothingAlive()
    }

    @Test("SIGKILL to random workers, ten a second: full strength after, and nothing is left behind")
    func randomKills() throws {
        let (server, address) = try prefork(["--workers", "4", "--http"])
        let before = openDescriptors(of: server.pid).count
        let load = Load(address, clients: 3)
        var killed = 0
        let end = now() + 50
        while killed < 25, now() < end {
            if let victim = liveChildren(of: server.pid).randomElement(), kill(victim, SIGKILL) == 0 { killed += 1 }
            usleep(100_000)  // the rate at which they are killed
        }
        try eventually("not at full strength: \(children(of: server.pid))") {
            liveChildren(of: server.pid).count == 4
        }
        try load.goOn(for: 100)
        load.end()
        #expect(killed == 25)
        #expect(children(of: server.pid).count == 4 && server.descendants.count == 4, "a zombie, or an orphan")
        #expect(openDescriptors(of: server.pid).count == before)
        try stop(server)
    }

    @Test("at rest the parent makes no system call", .needsTracing)
    func atRest() throws {
        let (server, address) = try prefork(["--workers", "2", "--http"])
        let client = try Client(address)
        try client.send(lastRequest)
        #expect(try client.receiveAll() == lastHTTPAnswer)
        let directory = try TemporaryDirectory()
        let trace = directory.path + "/trace"
        let strace = try Running("strace", ["-o", trace, "-p", "\(server.pid)"], deadline: 30)
        try strace.waitForError("attached")
        usleep(2_000_000)  // the rest that is looked at
        strace.send(SIGINT)
        try strace.wait()
        // The one in which it was found.
        let calls = (contents(of: trace) ?? "").split(separator: "\n").filter { !$0.contains("<detached") }
        #expect(calls.count == 0, "\(calls)")
        try stop(server)
    }

    private let lastRequest = "GET / HTTP/1.0\r\n\r\n"
}
