// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import TestSupport
import Testing

@Suite("ForkingServer with spares")
struct SparesTests {
    /// A server whose spares are all there.
    private func served(_ settings: String..., spares: Int) throws -> Served {
        let server = try Served(["spares=\(spares)"] + settings, deadline: 60)
        try waitForSpares(spares, of: server)
        return server
    }

    private func waitForSpares(_ count: Int, of server: Served) throws {
        try eventually("not \(count) spares: \(server.liveChildren)") { server.liveChildren.count == count }
    }

    private func ownDescriptors(of spare: pid_t) -> [Int] {
        // What this process leaves open for whatever it starts is not the server's.
        let inherited = openDescriptors().filter { fcntl(Int32($0), F_GETFD) & FD_CLOEXEC == 0 } + [0, 1, 2]
        return openDescriptors(of: spare).filter { !inherited.contains($0) }
    }

    /// Waits until a spare has one descriptor of its own; or none, as it has ended.
    private func waitUntilItHoldsOne(_ spare: pid_t) throws {
        try eventually("spare \(spare) holds \(ownDescriptors(of: spare))") { ownDescriptors(of: spare).count <= 1 }
    }

    private func seconds(_ end: String) throws -> Double {
        try #require(Double(end.split(separator: " ").dropLast().last ?? ""), "\(end)")
    }

    @Test("each client has a child of its own, the one that the server names")
    func ownChildren() throws {
        let server = try served(spares: 4)
        let spares = server.liveChildren
        var pids: [pid_t] = []
        var clients: [Client] = []
        for number in 0..<10 {
            let client = try server.client()
            let pid = try #require(pid_t(client.ask("pid")))
            try server.event("child \(pid), peer 127.0.0.1:\(client.port): forked")
            if number == 0 { #expect(spares.contains(pid), "it was not forked ahead") }
            pids.append(pid)
            clients.append(client)
        }
        #expect(Set(pids).count == 10)
        for (client, pid) in zip(clients, pids) {
            try client.echo("still here")
            client.finishSending()
            try server.event("child \(pid), peer 127.0.0.1:\(client.port): exited with status 0 after")
        }
        try server.stop()
        #expect(server.running.errors == "")
    }

    @Test("they count towards the limit: two are served, the third waits until one has gone")
    func limit() throws {
        let server = try served("max=2", spares: 2)
        let (first, second) = try (server.servedClient(), server.servedClient())
        let third = try server.client()
        try third.send("hello\n")
        server.signal(SIGHUP)
        try server.event("hangup", "2 children")
        #expect(!third.hasAnswer)
        #expect(!server.running.output.contains("clients wait"), "it tries to fork spares: \(server.running.output)")
        first.finishSending()
        #expect(try third.receive() == "hello\n")
        for client in [second, third] {
            try client.echo("still here")
            client.finishSending()
        }
        try server.stop()
    }

    @Test("spares and those who serve are never more than the limit")
    func neverMore() throws {
        let server = try served("max=6", spares: 4)
        var most = 0
        var open: [Client] = []
        for _ in 0..<60 {
            open.append(try server.servedClient())
            most = max(most, server.liveChildren.count)
            if open.count == 6 {
                open.removeFirst().finishSending()
                most = max(most, server.liveChildren.count)
            }
        }
        #expect(most <= 6, "\(most) children")
        for client in open { client.finishSending() }
        try server.stop()
    }

    @Test("an end tells the peer, and how long the client was there, not the spare")
    func duration() throws {
        let server = try served("idle=0.3", spares: 1)
        for _ in 0..<4 { try server.event("idle") }  // by now the spare has waited for more than 0.9 s
        let started = now()
        let client = try server.servedClient()
        client.finishSending()
        #expect(try seconds(server.end(of: client)) <= now() - started)
        try server.stop()
    }

    @Test("the verify hook refuses as ever, and takes no spare for it")
    func verify() throws {
        let server = try served("verify=yes", spares: 2)
        let spares = server.liveChildren
        for text in ["", ", as the verify hook failed: the hook's own"] {
            let client = try server.client()
            #expect(try client.receiveAll() == "")
            try server.event("refused 127.0.0.1:\(client.port)\(text)")
        }
        #expect(server.liveChildren == spares)
        try server.servedClient().finishSending()
        try server.event("exited with status 0")
        try server.stop()
    }

    @Test("a time limit begins with the client")
    func timeLimit() throws {
        let server = try served("limit=2", "idle=0.7", spares: 2)
        let spares = server.liveChildren
        for _ in 0..<4 { try server.event("idle") }
        #expect(server.liveChildren == spares && !server.running.output.contains("after"))
        let client = try server.servedClient()
        #expect(try client.receiveAll() == "")
        let end = try server.end(of: client)
        #expect(end.contains("killed by SIGTERM at its time limit"))
        #expect(try seconds(end) >= 2)
        try server.stop()
    }

    @Test("a spare that is killed is told of and replaced, and no client is lost")
    func killed() throws {
        let server = try served("max=2", spares: 2)
        for _ in 0..<5 {
            for spare in server.liveChildren {
                kill(spare, SIGKILL)
                try server.event("child \(spare): killed by SIGKILL")
            }
            let clients = try [server.servedClient(), server.servedClient()]
            for client in clients {
                client.finishSending()
                #expect(try client.receiveAll() == "")
                _ = try server.end(of: client)  // until then its child is alive too, and no spare
            }
            try waitForSpares(2, of: server)
        }
        try server.stop()
        #expect(!server.running.output.contains("away"))
    }

    @Test("a client that was admitted for spares that are dying waits until one has gone, and is served")
    func dying() throws {
        let server = try served("dying=2", "max=2", spares: 2)
        for spare in server.liveChildren { try waitUntilItHoldsOne(spare) }  // they have closed their channels
        let client = try server.servedClient()
        client.finishSending()
        #expect(try client.receiveAll() == "")
        try server.stop()
        #expect(!server.running.output.contains("away"))
    }

    @Test("a client that a dying spare does not take goes to the next")
    func dyingFirst() throws {
        let server = try served("dying=1", "max=2", spares: 2)
        let spares = server.liveChildren
        try eventually("no spare has closed its channel") {
            spares.contains { ownDescriptors(of: $0).count <= 1 }
        }
        let client = try server.client()
        #expect(spares.contains(try #require(pid_t(client.ask("pid")))))
        client.finishSending()
        try server.stop()
    }

    @Test("who has waited longest is next; others are forked when half are used up, and not before")
    func refill() throws {
        let server = try served("max=20", spares: 4)
        let spares = Set(server.liveChildren)
        var clients: [Client] = []
        func next() throws {
            clients.append(try server.client())
            let pid = try #require(pid_t(clients.last!.ask("pid")))
            #expect(spares.contains(pid), "client \(clients.count) has a child that came later")
        }
        try next()
        server.signal(SIGHUP)
        try server.event("hangup", " 4 children")
        try next()
        try waitForSpares(6, of: server)
        for _ in 0..<2 { try next() }
        for client in clients { client.finishSending() }
        try server.stop()
    }

    @Test("a trap costs one client, and no other")
    func trap() throws {
        let server = try served(spares: 4)
        let neighbours = try (0..<3).map { _ in try server.servedClient() }
        let client = try server.client()
        try client.send("crash index\n")
        #expect(try client.receiveAll() == "")
        #expect(try server.end(of: client).contains("killed by SIG"))
        for one in neighbours + [try server.servedClient()] {
            try one.echo("still here")
            one.finishSending()
        }
        try server.stop()
    }

    @Test("as the server drains they end at once, and untold; who is served may finish")
    func drain() throws {
        let server = try served(spares: 3)
        let client = try server.client()
        let child = try #require(pid_t(client.ask("pid")))
        server.signal(SIGTERM)
        try server.event("stopping: draining")
        try eventually("spares are left") { server.liveChildren == [child] }
        try client.echo("still here")
        client.finishSending()
        try server.expectCleanEnd()
        #expect(server.running.output.split(separator: "\n").filter { $0.contains(" after ") }.count == 1)
        #expect(!server.running.output.contains("terminating"))
    }

    @Test("they end with a parent that is killed, by its signal or by its silence", arguments: ["yes", "no"])
    func parentKilled(tied: String) throws {
        let server = try served("tied=\(tied)", spares: 3)
        server.signal(SIGKILL)
        #expect(try server.running.wait() == -SIGKILL)
        try server.running.expectNothingAlive()
    }

    @Test("a spare holds its own channel alone, and a child then its connection")
    func descriptors() throws {
        let server = try served(spares: 4)
        try server.servedClient().finishSending()  // those that come later could inherit more
        for spare in server.liveChildren { try waitUntilItHoldsOne(spare) }
        let neighbour = try server.servedClient()
        let client = try server.client()
        let own = try client.ask("open").split(separator: " ").map { $0.split(separator: ":").last! }
        #expect(own == ["socket"])
        for one in [client, neighbour] { one.finishSending() }
        try server.stop()
    }

    @Test("a burst of 50 clients at 4 spares")
    func burst() throws {
        let server = try served(spares: 4)
        let clients = try (0..<50).map { _ in try server.client() }
        for (number, client) in clients.enumerated() {
            try client.send("client \(number)\n")
            client.finishSending()
        }
        for (number, client) in clients.enumerated() { #expect(try client.receiveAll() == "client \(number)\n") }
        for _ in clients { try server.event(" after ", "exited with status 0") }
        try server.stop()
    }

    @Test("500 clients leave no descriptor in the parent")
    func noLeak() throws {
        let server = try served("quiet=yes", spares: 4)
        /// What is open in the parent besides the channels, of which each spare has one.
        func others() throws -> Int {
            server.signal(SIGHUP)
            let report = try server.event("hangup").split(separator: "descriptors ")
            let children = try #require(Int(report[0].split(separator: ", ")[1].split(separator: " ")[0]))
            return report[1].split(separator: ",").count - children
        }
        let before = try others()
        for _ in 0..<500 {
            let client = try server.servedClient()
            client.finishSending()
            #expect(try client.receiveAll() == "")
        }
        try eventually("more descriptors are open than before") { try others() == before }
        try server.stop()
    }

    @Test("no processes for spares: told once, and they come once there are some again")
    func shortage() throws {
        let server = try served("shortage=processes", "idle=0.3", spares: 2)
        for round in 1...2 {
            server.signal(SIGUSR1)
            try server.event("shortage begins")
            for spare in server.liveChildren { kill(spare, SIGKILL) }
            try server.event("Resource temporarily unavailable")
            server.signal(SIGHUP)
            try server.event("hangup")
            for _ in 0..<3 { try server.event("idle") }
            server.signal(SIGHUP)
            let turns = try server.event("hangup").split(separator: " ")[1]
            #expect(Int(turns)! < 200, "it goes round \(turns) times in a second")
            server.signal(SIGUSR2)
            try server.event("shortage ends")
            try waitForSpares(2, of: server)
            let told = server.running.output.components("Resource temporarily unavailable")
            #expect(told == round, "\(server.running.output)")
            for _ in 0..<5 { try server.event("idle") }  // what comes within a second is no other shortage
        }
        try server.servedClient().finishSending()
        try server.stop()
    }

    @Test("what cannot be is refused, in one line")
    func configuration() throws {
        func refusal(spares: Int, max: Int = 4, datagrams: Bool = false, programs: Bool = false) throws -> String? {
            var configuration = ForkingServer.Configuration()
            (configuration.spares, configuration.maxChildren) = (spares, max)
            let listener = try Listener(SocketAddress(parsing: "127.0.0.1:0"), datagram: datagrams)
            do throws(ForkingError) {
                if datagrams {
                    _ = try ForkingServer(datagrams: listener, configuration: configuration) { _ in }
                } else if programs {
                    _ = try ForkingServer(programs: listener, configuration: configuration) { _ in
                        Program(path: "/", arguments: [])
                    }
                } else {
                    _ = try ForkingServer(listener, configuration: configuration) { _ in }
                }
            } catch {
                return "\(error)"
            }
            return nil
        }
        for (spares, max) in [(-1, 4), (5, 4), (2, 1), (.min, 4)] {
            let text = try #require(try refusal(spares: spares, max: max))
            #expect(text.contains("spares is \(spares)") && text.contains("maxChildren, which is \(max)"), "\(text)")
            #expect(!text.contains("\n"))
        }
        let allowed = Int(getdtablesize())
        let many = try #require(try refusal(spares: allowed, max: allowed))
        #expect(many.contains("spares is \(allowed)") && many.contains("ulimit -n") && !many.contains("\n"), "\(many)")
        for max in [.min, -1, 0] {
            #expect(try refusal(spares: 0, max: max, programs: true) == "maxChildren is \(max), and must be at least 1")
        }
        for (datagrams, programs) in [(true, false), (false, true)] {
            let text = try #require(try refusal(spares: 1, datagrams: datagrams, programs: programs))
            #expect(text.contains("spares is 1, and must be 0") && !text.contains("\n"), "\(text)")
        }
    }
}

extension String {
    /// How often `text` is in it.
    fileprivate func components(_ text: String) -> Int {
        split(separator: "\n").filter { $0.contains(text) }.count
    }
}
